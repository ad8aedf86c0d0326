"""The market socket: live rows for those who may have them, and nobody held up by anybody."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter

import httpx
import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from market_data_core.clock import ManualClock
from market_data_core.schemas import KIND_FIELDS, TABLE_FIELDS, Kind
from market_data_core.web import install_problem_handlers
from market_data_core.web.auth import (
    FIRST_KEY_FILE,
    KeyStore,
    MemorySessions,
    OneTime,
    Principal,
    Role,
    SessionCookies,
    Sessions,
    StoredKeys,
    WsTickets,
    require,
)
from market_data_orchestrator.market.feed import MarketFeed
from market_data_orchestrator.market.outbox import Outbox, Parcel
from market_data_orchestrator.market.socket import MarketSocket
from market_data_orchestrator.service import Service
from market_data_orchestrator.settings import load_settings
from support.service import RunningService, eventually

EVE = Principal(name="eve", role=Role.VIEWER)
QUOTE = dict.fromkeys((f.name for f in (*TABLE_FIELDS, *KIND_FIELDS[Kind.QUOTES])), 0)
TRADE = dict.fromkeys((f.name for f in (*TABLE_FIELDS, *KIND_FIELDS[Kind.TRADES])), 0)


def rows_of(kind, count, *, start=0, symbol="AAPL", vendor="v"):
    row = QUOTE if kind is Kind.QUOTES else TRADE
    return [{**row, "vendor": vendor, "symbol": symbol, "seq": start + n} for n in range(count)]


async def say(socket, **message):
    await socket.send(json.dumps(message))


async def hear(socket, type_, timeout_s=10.0):
    """The next message of a type."""
    async with asyncio.timeout(timeout_s):
        while True:
            message = json.loads(await socket.recv())
            if message["type"] == type_:
                return message


async def subscribe(socket, **symbols):
    channels = [{"kind": kind, "symbols": names} for kind, names in symbols.items()]
    await say(socket, op="subscribe", channels=channels)
    return await hear(socket, "subscribed")


async def closed_with(socket, timeout_s=10.0):
    async with asyncio.timeout(timeout_s):
        with contextlib.suppress(ConnectionClosed):
            while True:
                await socket.recv()
    return socket.close_code


class Front:
    """A feed behind a real server, and all ways in."""

    def __init__(self, tmp_path):
        self.clock = ManualClock(1_700_000_000_000_000_000)
        self.keys = KeyStore(tmp_path / "keys")
        self.sessions = Sessions(MemorySessions(), secure=False, clock=self.clock)
        self.tickets = OneTime(30, clock=self.clock)
        ways = [StoredKeys(self.keys), SessionCookies(self.sessions), WsTickets(self.tickets)]
        service = Service(load_settings(data_dir=tmp_path / "data"))
        self.feed = MarketFeed(service, max_clients=3, max_channels=5)
        self.clients = 0
        socket = MarketSocket(
            self.feed,
            require(Role.VIEWER, authenticators=ways),
            ways,
            count=self.count,
            clock=self.clock,
            allowed_origins=["https://cockpit.example"],
        )
        self.app = Starlette(routes=[WebSocketRoute("/ws/market", socket)])
        install_problem_handlers(self.app)

    def count(self, change):
        self.clients += change

    def key(self):
        return self.keys.add("a-viewer", Role.VIEWER)

    def connect(self, *, query="", headers=None, key=None, **options):
        headers = dict(headers or {}) | ({"X-API-Key": key} if key else {})
        return connect(f"{self.url}/ws/market{query}", additional_headers=headers, proxy=None, **options)

    @contextlib.asynccontextmanager
    async def served(self):
        config = uvicorn.Config(
            self.app, port=0, ws="websockets-sansio", lifespan="off", log_config=None, timeout_graceful_shutdown=2
        )
        server = uvicorn.Server(config)
        async with self.feed.running():
            task = asyncio.create_task(server.serve())
            await asyncio.to_thread(eventually, lambda: server.started, 10, "the server is there")
            self.url = f"ws://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
            try:
                yield self
            finally:
                self.feed.over.set()
                server.should_exit = True
                await task

    async def until_closed(self, socket, step_s):
        """Moves time on until the socket is closed, and returns the code."""
        closing = asyncio.create_task(closed_with(socket))
        while not closing.done():
            self.clock.advance(step_s)
            await asyncio.sleep(0.01)
        return await closing


@pytest.fixture
async def front(tmp_path):
    async with Front(tmp_path).served() as served:
        yield served


async def refused(front, **options):
    with pytest.raises(InvalidStatus) as caught:
        async with front.connect(**options):
            pass
    return caught.value.response.status_code


async def test_nobody_comes_in_without_being_known(front):
    """Neither without anything, nor with a wrong key, nor with a key or a made-up ticket in the address."""
    key = front.key()
    assert await refused(front) == 401
    assert await refused(front, key="wrong") == 401
    assert await refused(front, query=f"?key={key}&api_key={key}&token={key}") == 401
    assert await refused(front, query=f"?ticket={'A' * 43}") == 401


async def test_a_ticket_opens_one_socket(front):
    """Used again it is refused, whether the first socket is open or not; and it is too old after 30 seconds."""
    ticket = front.tickets.issue(EVE)
    async with front.connect(query=f"?ticket={ticket}") as socket:
        await subscribe(socket, quotes=["AAPL"])
        assert await refused(front, query=f"?ticket={ticket}") == 401
    assert await refused(front, query=f"?ticket={ticket}") == 401
    late = front.tickets.issue(EVE)
    front.clock.advance(31)
    assert await refused(front, query=f"?ticket={late}") == 401


async def test_pages_of_other_origins_are_refused(front):
    """With a cookie, a ticket or a key: the page decides nothing. A ticket is not even used up by it."""
    cookie = {"Cookie": f"{front.sessions.cookie}={await front.sessions.open(EVE)}"}
    ticket = front.tickets.issue(EVE)
    assert await refused(front, headers=cookie, origin="https://elsewhere.example") == 403
    assert await refused(front, key=front.key(), origin="null") == 403
    assert await refused(front, query=f"?ticket={ticket}", origin="https://elsewhere.example") == 403
    async with front.connect(query=f"?ticket={ticket}", origin="https://cockpit.example"):
        pass
    async with front.connect(headers=cookie, origin=front.url.replace("ws", "http")):
        pass


async def test_a_name_that_was_bent_to_our_address_is_refused(front):
    """A page whose name resolves to us is of one origin with us to its browser."""
    reader, writer = await asyncio.open_connection(*front.url.removeprefix("ws://").split(":"))
    lines = (
        f"GET /ws/market?ticket={front.tickets.issue(EVE)} HTTP/1.1",
        "Host: evil.example",
        "Origin: http://evil.example",
        *("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"),
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
    assert b" 403 " in await asyncio.wait_for(reader.readline(), 10)
    writer.close()
    await writer.wait_closed()


async def test_a_socket_ends_with_its_session(front):
    """Signed out elsewhere, it is closed with 4401 at the next look, while others stay."""
    id_ = await front.sessions.open(EVE)
    async with (
        front.connect(headers={"Cookie": f"{front.sessions.cookie}={id_}"}) as socket,
        front.connect(key=front.key()) as other,
    ):
        await subscribe(socket, quotes=["AAPL"])
        front.clock.advance(11)
        await subscribe(socket, quotes=["MSFT"])
        await front.sessions.close(id_)
        assert await front.until_closed(socket, 5) == 4401
        await subscribe(other, quotes=["AAPL"])


async def test_a_socket_ends_with_its_key(front):
    """A key that was revoked holds no socket open."""
    async with front.connect(key=front.key()) as socket:
        await subscribe(socket, quotes=["AAPL"])
        front.keys.revoke("a-viewer")
        assert await front.until_closed(socket, 5) == 4401


async def test_a_socket_of_a_ticket_ends_after_an_hour(front):
    """What the ticket was got with is not known any more, so another is to be got."""
    async with front.connect(query=f"?ticket={front.tickets.issue(EVE)}") as socket:
        await subscribe(socket, quotes=["AAPL"])
        front.clock.advance(3500)
        await subscribe(socket, quotes=["MSFT"])
        assert await front.until_closed(socket, 60) == 4401


async def test_who_comes_later_gets_what_is_asked_for_and_nothing_else(front):
    """Of its kind and symbol alone, and nothing after leaving a channel."""
    async with front.connect(key=front.key()) as socket:
        said = await subscribe(socket, trades=["aapl"])
        assert said["channels"] == [{"kind": "trades", "symbols": ["AAPL"]}]
        front.feed.publish(Kind.QUOTES, rows_of(Kind.QUOTES, 1))
        front.feed.publish(Kind.TRADES, rows_of(Kind.TRADES, 1, symbol="MSFT"))
        front.feed.publish(Kind.TRADES, rows_of(Kind.TRADES, 2))
        assert [row["seq"] for row in (await hear(socket, "trades"))["data"]] == [0, 1]
        await say(socket, op="unsubscribe", channels=[{"kind": "trades", "symbols": ["AAPL"]}], id="u")
        assert (await hear(socket, "unsubscribed")) == {"type": "unsubscribed", "id": "u", "channels": []}
        front.feed.publish(Kind.TRADES, rows_of(Kind.TRADES, 1))
        await say(socket, op="ping", id=7)
        assert json.loads(await socket.recv())["id"] == 7


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("{", "bad_message"),
        ("[]", "bad_message"),
        (b"\x00", "bad_message"),
        ('{"op": "drop"}', "unknown_op"),
        ('{"op": "subscribe"}', "bad_message"),
        ('{"op": "subscribe", "channels": [1]}', "bad_message"),
        ('{"op": "subscribe", "channels": [{"kind": "secrets", "symbols": ["A"]}]}', "unknown_kind"),
        ('{"op": "subscribe", "channels": [{"kind": ["quotes"], "symbols": ["A"]}]}', "unknown_kind"),
        ('{"op": "subscribe", "channels": [{"kind": "quotes", "symbols": []}]}', "bad_message"),
        ('{"op": "subscribe", "channels": [{"kind": "quotes", "symbols": [""]}]}', "bad_message"),
        ('{"op": "subscribe", "channels": [{"kind": "quotes", "symbols": ["A","B","C","D","E","F"]}]}', "too_many"),
        ('{"op": "ping", "id": {"a": 1}}', "bad_message"),
        ("[" * 300_000, "too_long"),
    ],
)
async def test_a_message_that_cannot_be_taken_is_answered_and_the_socket_stays(front, message, code):
    """A typed error that names what is wrong; nothing is subscribed to by it."""
    async with front.connect(key=front.key()) as socket:
        await socket.send(message)
        said = await hear(socket, "error")
        assert (said["code"], bool(said["detail"])) == (code, True)
        assert (await subscribe(socket, quotes=["AAPL"]))["channels"] == [{"kind": "quotes", "symbols": ["AAPL"]}]


async def test_one_client_too_many_is_turned_away(front):
    """503 for the fourth of three; there is room again once one has left."""
    key = front.key()
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(front.connect(key=key))
        assert front.clients == 3
        assert await refused(front, key=key) == 503
    await asyncio.to_thread(eventually, lambda: not front.clients, 10, "they have left")
    async with front.connect(key=key):
        assert front.feed.clients == 1


async def test_a_slow_client_is_told_what_it_missed_and_holds_up_nobody(front):
    """What it gets and what it is told add up to what there was; its last quote is the newest; others miss nothing."""
    key, batches, size = front.key(), 80, 1000
    plain = {"key": key, "max_size": None, "compression": None}
    async with front.connect(max_queue=1, **plain) as slow, front.connect(**plain) as fast:
        for socket in (slow, fast):
            await subscribe(socket, quotes=["AAPL"], trades=["AAPL"])
        taken = Counter()
        for number in range(batches):
            front.feed.publish(Kind.QUOTES, rows_of(Kind.QUOTES, size, start=number * size))
            front.feed.publish(Kind.TRADES, rows_of(Kind.TRADES, size, start=number * size))
            while sum(taken.values()) < 2 * size * (number + 1):
                message = json.loads(await asyncio.wait_for(fast.recv(), 10))
                taken[message["type"]] += len(message["data"])
        assert taken == {"quotes": batches * size, "trades": batches * size}
        got, missed, last = Counter(), Counter(), {}
        while any(got[k] + missed[k] < batches * size for k in taken):
            message = json.loads(await asyncio.wait_for(slow.recv(), 10))
            if message["type"] == "missed":
                missed[message["kind"]] += message["count"]
                continue
            got[message["type"]] += len(message["data"])
            seqs = [row["seq"] for row in message["data"]]
            assert seqs == sorted(seqs)
            assert seqs[0] > last.get(message["type"], -1)
            last[message["type"]] = seqs[-1]
        assert missed["quotes"] > 0
        assert missed["trades"] > 0
        assert last == {"quotes": batches * size - 1, "trades": batches * size - 1}
        assert {k: got[k] + missed[k] for k in taken} == {"quotes": batches * size, "trades": batches * size}


@given(st.lists(st.tuples(st.sampled_from([Kind.QUOTES, Kind.TRADES]), st.sampled_from("ab"), st.integers(1, 9))))
@settings(max_examples=60)
def test_an_outbox_loses_nothing_without_saying_so(adds):
    """Rows given and rows told as missed are all that were added; of each instrument the newest quote is there."""

    async def walk():
        outbox = Outbox(max_rows=12)
        added, newest = Counter(), {}
        for number, (kind, symbol, count) in enumerate(adds):
            rows = tuple(json.dumps({"s": symbol, "n": number * 10 + n}) for n in range(count))
            outbox.add([Parcel(kind, "v", symbol, rows)])
            added[str(kind)] += count
            if kind is Kind.QUOTES:
                newest[symbol] = number * 10 + count - 1
            assert outbox.rows <= 12 + 2
        messages = [json.loads(m) for m in await outbox.take()] if adds else []
        told, last = Counter(), {}
        for message in messages:
            told[message.get("kind", message["type"])] += message.get("count", len(message.get("data", ())))
            if message["type"] == "quotes":
                last |= {row["s"]: row["n"] for row in message["data"]}
        assert told == added
        assert last == newest

    asyncio.run(walk())


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    given = {"PROVIDER_RATE": "400", "BARS": "1s", "WORKERS": "thread"}
    with RunningService(tmp_path_factory.mktemp("market") / "data", **given) as running:
        running.wait_healthy()
        yield running


@pytest.fixture
def address(service):
    return f"{service.url.replace('http', 'ws')}/ws/market"


@pytest.fixture
def key(service):
    return (service.data_dir / FIRST_KEY_FILE).read_text().strip()


async def test_the_service_gives_quotes_trades_and_bars_as_the_tables_have_them(address, key, service):
    """Rows have the columns of their tables, times in nanoseconds; the socket is counted while it is open."""
    async with connect(address, additional_headers={"X-API-Key": key}, proxy=None, max_size=None) as socket:
        await subscribe(socket, quotes=["AAPL", "MSFT"], trades=["AAPL"], bars=["AAPL"])
        await asyncio.to_thread(
            eventually,
            lambda: "orchestrator_ws_clients 1.0" in service.get("/metrics").text,
            10,
            "the socket is counted",
        )
        for kind in (Kind.QUOTES, Kind.TRADES, Kind.BARS):
            row = (await hear(socket, str(kind), 30))["data"][0]
            assert list(row) == [f.name for f in (*TABLE_FIELDS, *KIND_FIELDS[kind])]
            assert (row["vendor"], row["origin"]) == ("synthetic", "synthetic")
            assert row["symbol"] in ("AAPL", "MSFT")
            assert row["ts_event"] > 10**18
        assert row["interval"] == "1s"


async def test_live_bars_are_whole(address, key, service):
    """What the socket gives is what the store has: none holds a part of its interval."""
    shown = []
    async with connect(address, additional_headers={"X-API-Key": key}, proxy=None, max_size=None) as socket:
        await subscribe(socket, bars=["AAPL"])
        while len(shown) < 3:
            shown += (await hear(socket, "bars", 30))["data"]

    def stored():
        since = f"symbol = 'AAPL' and ts_event >= {shown[0]['ts_event']}"
        sql = f"select ts_event, volume, trade_count from bars_revisions where {since}"
        answer = httpx.post(
            f"{service.url}/query", json={"sql": sql}, headers={"X-API-Key": key}, timeout=60, trust_env=False
        )
        rows = {row[0]: (row[1], row[2]) for row in answer.json()["rows"]}
        return rows if all(bar["ts_event"] in rows for bar in shown) else None

    rows = await asyncio.to_thread(eventually, stored, 30, "the bars are stored")
    assert {bar["ts_event"]: (bar["volume"], bar["trade_count"]) for bar in shown} == {
        bar["ts_event"]: rows[bar["ts_event"]] for bar in shown
    }


async def test_a_ticket_of_the_service_opens_one_socket(address, key, service):
    """Got with a key over HTTP, used once, without the key in any address."""
    answer = await asyncio.to_thread(
        httpx.post, f"{service.url}/auth/ws-ticket", headers={"X-API-Key": key}, trust_env=False
    )
    there = f"{address}?ticket={answer.json()['ticket']}"
    async with connect(there, proxy=None, origin=service.url) as socket:
        await subscribe(socket, quotes=["AAPL"])
        # Who comes late waits for no event: the last value is there at once.
        assert (await hear(socket, "quotes"))["data"][0]["symbol"] == "AAPL"
    for options in ({}, {"origin": "https://elsewhere.example"}):
        with pytest.raises(InvalidStatus):
            await connect(there, proxy=None, **options)


async def test_the_service_stops_with_clients_connected(tmp_path):
    """They are let go with 1001, and nothing is left behind."""
    with RunningService(tmp_path / "data", WORKERS="thread") as running:
        await asyncio.to_thread(running.wait_healthy)
        key = (running.data_dir / FIRST_KEY_FILE).read_text().strip()
        address = f"{running.url.replace('http', 'ws')}/ws/market"
        async with connect(address, additional_headers={"X-API-Key": key}, proxy=None, max_size=None) as socket:
            await subscribe(socket, quotes=["AAPL"], bars=["AAPL"])
            stopping = asyncio.create_task(asyncio.to_thread(running.stop))
            assert await closed_with(socket, 20) == 1001
            assert await stopping == 0, running.output()
