"""Servers on loopback that a peer should not be: deaf, lying, leading elsewhere; and a trap nobody may come to."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Listening:
    """A server of raw sockets on a thread of its own; a connection is answered by `answer`, given what it asked.

    Attributes:
        port: Where it listens.
        heard: The heads of the requests it got, in order.
    """

    def __init__(self, answer: Callable[[bytes], bytes | None], *, host: str = "127.0.0.1", port: int = 0) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._answer = answer
        self._over = threading.Event()
        self._listener = socket.create_server((host, port), family=family)
        self.port = int(self._listener.getsockname()[1])
        self.heard: list[bytes] = []
        self._thread = threading.Thread(target=self._accept, name=f"listening on {self.port}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        # Closing alone does not end an `accept` that is under way.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._listener.close()

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            head = connection.recv(65536)
            self.heard.append(head)
            answer = self._answer(head)
            if answer is None:
                self._over.wait()
            else:
                connection.sendall(answer)


@contextmanager
def listening(answer: Callable[[bytes], bytes | None], **where: object) -> Iterator[Listening]:
    """Have one listen for as long as the block runs."""
    made = Listening(answer, **where)
    try:
        yield made
    finally:
        made.close()


def deaf(_head: bytes) -> None:
    """Take a request and never answer it."""


def nonsense(_head: bytes) -> bytes:
    """Answer with a page."""
    return b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 6\r\n\r\n<html>"


def leading_to(url: str) -> Callable[[bytes], bytes]:
    """Answer with redirects to `url`, with another status each time."""
    statuses = [301, 302, 303, 307, 308]

    def answer(_head: bytes) -> bytes:
        statuses.append(statuses.pop(0))
        lines = [f"HTTP/1.1 {statuses[-1]} Elsewhere", f"location: {url}", f"refresh: 0; url={url}"]
        lines += [f'link: <{url}>; rel="next"', f'alt-svc: h2="{url}"', "connection: close", "content-length: 0"]
        return "\r\n".join([*lines, "", ""]).encode()

    return answer
