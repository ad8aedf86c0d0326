"""What is written within one turn of the loop leaves in one piece, whole and in order."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager

import pytest
from fastapi import WebSocket
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import StreamingResponse
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from market_data_core.web import create_service_app
from market_data_core.web.gathering import GatheringTransport

DEADLINE_S = 10.0
KIB = 1024


class Written:
    """A transport that notes every write it is asked for."""

    def __init__(self):
        self.pieces = []
        self.ended = []

    def write(self, data):
        self.pieces.append(bytes(data))

    def close(self):
        self.ended.append("close")

    def write_eof(self):
        self.ended.append("eof")

    def abort(self):
        self.ended.append("abort")

    def is_closing(self):
        return bool(self.ended)

    def get_write_buffer_size(self):
        return 7

    def get_extra_info(self, name):
        return f"extra {name}"


def gathering():
    below = Written()
    return GatheringTransport(below, asyncio.get_running_loop()), below


async def turn():
    await asyncio.sleep(0)


async def test_one_turn_is_one_write():
    """Three pieces are one write after the turn, none before; what comes in the next turn is another."""
    above, below = gathering()
    for data in (b"head", b"", b"body", b"frame"):
        above.write(data)
    assert (below.pieces, above.get_write_buffer_size()) == ([], 13 + 7)
    await turn()
    assert (below.pieces, above.get_write_buffer_size()) == ([b"headbodyframe"], 7)
    above.write(b"next")
    await turn()
    await turn()
    assert below.pieces == [b"headbodyframe", b"next"]


async def test_nothing_written_is_nothing_to_do():
    """An empty body makes no call of the system."""
    above, below = gathering()
    above.write(b"")
    await turn()
    assert below.pieces == []


async def test_much_is_not_held_back():
    """Who writes without a pause is felt below as soon as 64 KiB are there."""
    above, below = gathering()
    for _ in range(3):
        above.write(b"x" * 32 * KIB)
    assert [len(piece) for piece in below.pieces] == [64 * KIB]
    await turn()
    assert [len(piece) for piece in below.pieces] == [64 * KIB, 32 * KIB]


async def test_closing_sends_what_is_held_back_first():
    """A goodbye is written before the end; what comes after it goes nowhere."""
    above, below = gathering()
    above.write(b"goodbye")
    above.close()
    assert (below.pieces, below.ended) == ([b"goodbye"], ["close"])
    above.write(b"late")
    await turn()
    assert below.pieces == [b"goodbye"]


async def test_pieces_and_the_end_of_writing_keep_their_place():
    """Nothing overtakes what is held back."""
    above, below = gathering()
    above.write(b"a")
    above.writelines([b"b", b"c"])
    above.write_eof()
    assert (below.pieces, below.ended) == ([b"abc"], ["eof"])


async def test_an_abort_drops_what_is_held_back():
    """A connection that is cut takes nothing more."""
    above, below = gathering()
    above.write(b"held")
    above.abort()
    await turn()
    assert (below.pieces, below.ended) == ([], ["abort"])


async def test_all_else_is_the_transports_own():
    """Addresses and certificates are asked of the connection itself."""
    above, _ = gathering()
    assert above.get_extra_info("peername") == "extra peername"
    with pytest.raises(AttributeError):
        _ = above.no_such


@given(st.lists(st.one_of(st.binary(max_size=40 * KIB), st.none()), max_size=12))
def test_bytes_stay_whole_and_in_order(steps):
    """However writes and turns (None) follow each other, what arrives is what was written."""

    async def write():
        above, below = gathering()
        for data in steps:
            if data is None:
                await turn()
            else:
                above.write(data)
        above.close()
        return b"".join(below.pieces)

    assert asyncio.run(write()) == b"".join(data for data in steps if data is not None)


@pytest.fixture
def app(registry):
    app = create_service_app(title="t", version="1", registry=registry)

    @app.get("/large")
    async def large():
        async def parts():
            for number in range(300):
                yield bytes([number % 256]) * 10_000

        return StreamingResponse(parts())

    @app.websocket("/many")
    async def many(socket: WebSocket):
        await socket.accept()
        for number in range(1000):
            await socket.send_text(str(number))
        await socket.close(1000, "all sent")

    return app


@asynccontextmanager
async def reading(address):
    """A client's side of a connection, in plain bytes."""
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.close()


async def test_an_answer_arrives_with_its_head(app, served):
    """Head and body are one segment: one read has both."""
    loop = asyncio.get_running_loop()
    async with served(app) as address:
        host, port = address.split(":")
        with socket.create_connection((host, int(port))) as client:
            client.setblocking(False)
            await loop.sock_sendall(client, b"GET /no/such HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = await asyncio.wait_for(loop.sock_recv(client, 64 * KIB), DEADLINE_S)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404")
    assert body.endswith(b"}")


async def test_a_streamed_answer_is_whole(app, served):
    """Three megabytes in pieces, to a reader that is slower than the writer."""
    async with served(app) as address, reading(address) as (reader, writer):
        writer.write(b"GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        got = bytearray()
        async with asyncio.timeout(DEADLINE_S):
            while (size := int(await reader.readline(), 16)) > 0:
                got += (await reader.readexactly(size + 2))[:-2]
    assert bytes(got) == b"".join(bytes([n % 256]) * 10_000 for n in range(300))


async def test_pipelined_requests_are_answered_in_order(app, served):
    """Requests that come in one piece have their answers one after the other."""
    async with served(app) as address, reading(address) as (reader, writer):
        writer.write(b"".join(b"GET /no/%d HTTP/1.1\r\nHost: a\r\n\r\n" % n for n in range(5)))
        async with asyncio.timeout(DEADLINE_S):
            for number in range(5):
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                assert b'"/no/%d"' % number in await reader.readexactly(size)


async def test_frames_arrive_one_by_one_and_the_close_last(app, served):
    """What was sent before the close is not lost with it."""
    async with served(app) as address, connect(f"ws://{address}/many") as client:
        async with asyncio.timeout(DEADLINE_S):
            got = [await client.recv() for _ in range(1000)]
        with pytest.raises(ConnectionClosed) as closed:
            await asyncio.wait_for(client.recv(), DEADLINE_S)
    assert got == [str(number) for number in range(1000)]
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1000, "all sent")
