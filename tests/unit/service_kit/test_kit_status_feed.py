"""``/ws/status``: what its clients are sent, whether they read or not, and that they are told of the end."""

from __future__ import annotations

import asyncio
import json

import pytest
from kit_world import settings_in, until
from starlette.websockets import WebSocket

from market_data_orchestrator.service import Service
from market_data_orchestrator.services.status_feed import StatusFeed
from market_data_orchestrator.status import StatusAggregator

HOST = [(b"host", b"localhost")]


class Peer:
    """A client at the other end of a server's socket."""

    def __init__(self):
        self.sent = []
        self.reads = asyncio.Event()
        self.reads.set()
        self.left = asyncio.Event()
        self._connected = False

    @property
    def socket(self):
        return WebSocket({"type": "websocket", "headers": HOST, "client": None}, self._receive, self._send)

    @property
    def times(self):
        """When the messages it got were made."""
        return [json.loads(m["text"])["data"]["ts"] for m in self.sent if m["type"] == "websocket.send"]

    @property
    def code(self):
        return next((m["code"] for m in self.sent if m["type"] == "websocket.close"), None)

    async def _receive(self):
        if not self._connected:
            self._connected = True
            return {"type": "websocket.connect"}
        await self.left.wait()
        return {"type": "websocket.disconnect", "code": 1000}

    async def _send(self, message):
        if message["type"] == "websocket.send":
            await self.reads.wait()
        if self.left.is_set():
            raise OSError  # as servers do; it becomes a WebSocketDisconnect
        self.sent.append(message)


@pytest.fixture
async def status(tmp_path):
    """What is told; it says something else whenever it is asked."""
    return StatusAggregator(Service(settings_in(tmp_path)), fresh_s=0.0)


@pytest.fixture
async def feed(status):
    """Makes messages as often as it can."""
    feed = StatusFeed(status, 0.001)
    running = asyncio.create_task(feed.run())
    yield feed
    running.cancel()


async def test_the_end_is_told_before_nobody_is_left(feed, status):
    """A client that reads again in time gets what is newest and is told 1001; only then is it no client any more."""
    quick, slow = Peer(), Peer()
    serving = [asyncio.create_task(feed.serve(peer.socket)) for peer in (quick, slow)]
    assert status.ws_none.is_set()
    await until(lambda: quick.times and slow.times, "both are served")
    assert status.ws_clients == 2
    slow.reads.clear()
    seen = len(quick.times)
    await until(lambda: len(quick.times) > seen + 3, "the slow one is waited for no more")
    feed.end()
    await until(lambda: quick.code, "the quick one is told")
    assert not status.ws_none.is_set()
    slow.reads.set()
    async with asyncio.timeout(10):
        await status.ws_none.wait()
        await asyncio.gather(*serving)
    assert (quick.code, slow.code) == (1001, 1001)


async def test_who_does_not_read_skips_messages(feed, status):
    """And then gets the newest at once, not those in between."""
    quick, slow = Peer(), Peer()
    serving = [asyncio.create_task(feed.serve(peer.socket)) for peer in (quick, slow)]
    await until(lambda: len(slow.times) > 1, "both are served")
    slow.reads.clear()
    given, seen = len(slow.times), len(quick.times)
    await until(lambda: len(quick.times) > seen + 20, "messages that are skipped")
    newest = quick.times[-1]
    slow.reads.set()
    await until(lambda: len(slow.times) > given + 1, "the newest is sent")
    # The one it was being sent, and behind that the newest.
    assert slow.times[given] < newest <= slow.times[given + 1]
    assert slow.times == sorted(slow.times)
    feed.end()
    await asyncio.gather(*serving)


@pytest.mark.parametrize("while_sent", [False, True])
async def test_who_leaves_is_no_client_any_more(feed, status, while_sent):
    """Whether it is noticed by reading or by sending; it is nobody's error."""
    peer = Peer()
    serving = asyncio.create_task(feed.serve(peer.socket))
    await until(lambda: peer.times, "it is served")
    if while_sent:
        peer.reads.clear()
    peer.left.set()
    peer.reads.set()
    async with asyncio.timeout(10):
        await serving
    assert (status.ws_clients, peer.code) == (0, None)
