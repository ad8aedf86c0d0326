"""Telling others of new data."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import pytest

from market_data_core.errors import ConfigurationError

RECORDING = {"provider": "replay", "enabled": True, "symbols": ["A"]}


class Heard:
    """Listens on the bus."""

    def __init__(self, error=None):
        self.events, self.error = [], error

    async def publish(self, event):
        if self.error is not None:
            raise self.error
        self.events.append(event)


class Endpoint:
    """A server on a loopback port that keeps what is posted to it."""

    def __init__(self, status):
        self.status, self.notices, self.accepted = status, [], []

    async def serve(self, reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-l"))
        self.notices.append(json.loads(await reader.readexactly(length)))
        if self.status < 300:
            self.accepted.append(self.notices[-1])
        writer.write(b"HTTP/1.1 %d x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % self.status)
        await writer.drain()
        writer.close()
        await writer.wait_closed()


@asynccontextmanager
async def endpoint(status=204):
    heard = Endpoint(status)
    server = await asyncio.start_server(heard.serve, "127.0.0.1", 0)
    async with server:
        heard.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/new-data"
        yield heard


@pytest.fixture
def tape(desk, trades_file):
    """Three trades to write, and notices as they come."""
    desk.providers(tape=RECORDING | {"params": {"paths": [str(trades_file)]}})

    def configure(mode, **rest):
        desk.policy(store_sync={"mode": mode, "interval_seconds": 0.01, **rest})

    return configure


async def test_the_bus_is_told_once_data_is_stored(desk, tape, eventually):
    """Not while it is only logged: the position is that of the store."""
    stored, bus = [0], Heard()
    desk.given = {"bus": bus, "stored_to": lambda: stored[0]}
    tape("bus")
    async with desk.opened() as controller:
        assert (await controller.start("tape"))["store_mode"] == "bus"
        await eventually(lambda: not controller.status()["running"], "all is logged")
        assert bus.events == []
        end = desk.capture.sources["tape"].end
        stored[0] = end + 5
        await eventually(lambda: bus.events, "the bus has heard")
    assert [(e.coordinator_id, e.source, e.level) for e in bus.events] == [("ingest:tape", "ingest", "ok")]
    assert bus.events[0].reason == f"new data of tape is stored, up to position {end}"


async def test_http_is_told_by_post(desk, tape, eventually):
    """A JSON object with provider and position."""
    async with endpoint() as heard:
        tape("http", url=heard.url)
        async with desk.opened() as controller:
            await controller.start("tape")
            await eventually(lambda: heard.notices, "the endpoint has heard")
    notice = heard.notices[-1]
    assert (notice["event"], notice["provider"]) == ("new_data", "tape")
    assert notice["position"] == desk.capture.sources["tape"].end


async def test_a_notice_that_fails_is_counted_and_sent_again(desk, tape, eventually):
    """Ingestion goes on all the same."""
    async with endpoint(500) as heard:
        tape("http", url=heard.url)
        async with desk.opened() as controller:
            await controller.start("tape")
            await eventually(
                lambda: desk.count("ingest_errors_total", provider="tape", stage="store_sync") >= 2, "both are counted"
            )
            await eventually(lambda: not controller.status()["running"], "the run has ended")
            heard.status = 204
            await eventually(lambda: heard.accepted, "it is sent again")
    assert heard.accepted[-1]["position"] == desk.capture.sources["tape"].end
    assert desk.capture.sources["tape"].events == 3
    assert desk.count("ingest_stops_total", provider="tape", reason="source_ended") == 1


async def test_a_bus_that_hangs_or_fails_holds_up_nothing(desk, tape, eventually):
    """Each notice has its time."""
    bus = Heard(error=RuntimeError("broken"))
    desk.given = {"bus": bus}
    tape("bus", timeout_seconds=0.05)
    async with desk.opened() as controller:
        await controller.start("tape")
        await eventually(
            lambda: desk.count("ingest_errors_total", provider="tape", stage="store_sync") > 0, "it is counted"
        )
        bus.publish = lambda _event: asyncio.sleep(3600)
        failed = desk.count("ingest_errors_total", provider="tape", stage="store_sync")
        await eventually(
            lambda: desk.count("ingest_errors_total", provider="tape", stage="store_sync") > failed + 1, "it times out"
        )


async def test_none_tells_nobody(desk, tape, eventually):
    """The default, whether there is a bus or not."""
    bus, looked = Heard(), []
    desk.given = {"bus": bus, "stored_to": lambda: looked.append(1) or 10**9}
    tape("none")
    async with desk.opened() as controller:
        await controller.start("tape")
        await eventually(lambda: looked and not controller.status()["running"], "the run has ended and been looked at")
    assert bus.events == []


async def test_a_bus_that_is_not_there_is_a_wrong_setting(desk, tape):
    """Said at the start and at the reload, where the old configuration then stands."""
    tape("bus")
    with pytest.raises(ConfigurationError, match="no feedback bus"):
        async with desk.opened():
            pass
    tape("none")
    async with desk.opened() as controller:
        tape("bus")
        with pytest.raises(ConfigurationError, match="no feedback bus"):
            await controller.reload()
        assert controller.status()["policy"]["store_sync"]["mode"] == "none"
