"""What a connection is given within one turn of the event loop goes out in one piece.

An answer's head and body, or the frames of several messages, are written one by one; each would be a call to the system
and wake whoever reads them. See `docs/decisions/0026-answers-leave-in-one-piece.md`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_AT_MOST: Final = 1 << 16


class GatheringTransport:
    """A transport that holds back what it is given until the event loop's next turn.

    Never more than 64 KiB: beyond that it writes at once, so that who writes without end is told to pause. What is
    held back goes out before the transport is closed, and is dropped where the connection is aborted or lost. All else
    is the transport's own.

    Args:
        transport: Where it is written.
        loop: Whose turns count.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> None:
        """Write data, at the loop's next turn."""
        if not data:
            return
        if not self._held:
            self._loop.call_soon(self._flush)
        self._held.append(data)
        self._size += len(data)
        if self._size >= _AT_MOST:
            self._flush()

    def writelines(self, pieces: Iterable[bytes]) -> None:
        """Write data in pieces, at the loop's next turn."""
        self.write(b"".join(pieces))

    def write_eof(self) -> None:
        """Write what is held back, and end writing once all is sent."""
        self._flush()
        self._transport.write_eof()

    def close(self) -> None:
        """Write what is held back, and close once all is sent."""
        self._flush()
        self._transport.close()

    def get_write_buffer_size(self) -> int:
        """Return how many bytes are not sent yet."""
        return self._size + self._transport.get_write_buffer_size()

    def _flush(self) -> None:
        held = self._held
        if not held:
            return  # there was more than is held back, or an end
        self._held, self._size = [], 0
        if not self._transport.is_closing():
            self._transport.write(held[0] if len(held) == 1 else b"".join(held))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class GatheringProtocol(HttpToolsProtocol):
    """HTTP as uvicorn speaks it, over a `GatheringTransport`; a WebSocket that it becomes goes on with that."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection."""
        super().connection_made(cast(asyncio.Transport, GatheringTransport(transport, self.loop)))
