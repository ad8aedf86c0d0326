"""The simulated gateway: connections, requests, what was said to whom, and faults on demand."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, cast

from market_data_core.clock import NS_PER_SECOND, Clock, SystemClock
from market_data_core.errors import ConnectionFailed, MarketDataError
from market_data_ibkr.simulator.answers import contract_details, historical_bars
from market_data_ibkr.simulator.market import Walk
from market_data_ibkr.wire import FrameReader, encode

VERSION: Final = 176
ACCOUNT: Final = "DU1234567"
TEXTS: Final[Mapping[int, str]] = {
    162: "Historical Market Data Service error message:Historical data request pacing violation",
    200: "No security definition has been found for the request",
    326: "Unable to connect as the client id is already in use. Retry with a unique client id.",
    354: "Requested market data is not subscribed.",
    1100: "Connectivity between IB and Trader Workstation has been lost.",
    1101: "Connectivity between IB and Trader Workstation has been restored - data lost.",
    1102: "Connectivity between IB and Trader Workstation has been restored - data maintained.",
    2103: "Market data farm connection is broken:usfarm",
    2104: "Market data farm connection is OK:usfarm",
    10167: "Requested market data is not subscribed. Displaying delayed market data.",
    10190: "Max number of tick-by-tick requests has been reached.",
    10197: "No market data during competing live session",
}
"""What the gateway says with its codes."""

_PREFIX: Final = b"API\0"
# Of delayed data: by the number of the live tick.
_DELAYED: Final = {1: 66, 2: 67, 4: 68, 0: 69, 3: 70, 5: 71}
_SIZE_OF: Final = {1: 0, 2: 3, 4: 5}
_DELAYED_NOTICE: Final = 10167
_IDENTICAL_S, _BUDGET_S, _BUDGET = 15.0, 600.0, 60

QuoteSent = tuple[float | None, int | None, float | None, int | None]
"""Bid price and size, ask price and size, as a client knows them after a message."""
TradeSent = tuple[int, float, int]
"""Second, price, size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A message of a client.

    Attributes:
        at_s: When it came, on the gateway's monotonic scale.
        connection: Which connection, counted from 1.
        fields: The message.
    """

    at_s: float
    connection: int
    fields: tuple[str, ...]


@dataclass(slots=True)
class _Subscription:
    symbol: str
    generics: str = ""
    is_delayed: bool = False
    view: dict[int, tuple[float, int]] = field(default_factory=dict)


class _Connection(asyncio.Protocol):
    def __init__(self, gateway: SimulatedGateway, number: int) -> None:
        self.gateway = gateway
        self.number = number
        self.client_id: int | None = None
        self.data: dict[int, _Subscription] = {}
        self.ticks: dict[int, str] = {}
        self.bars: dict[int, str] = {}
        self.silent = self.drip = False
        self._reader = FrameReader()
        self._opening: bytes | None = b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one without saying so
        self.gateway.connections.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self in self.gateway.connections:
            self.gateway.connections.remove(self)

    def data_received(self, data: bytes) -> None:
        if self._opening is not None:
            self._opening += data
            if len(self._opening) < len(_PREFIX):
                return
            data, self._opening = self._opening[len(_PREFIX) :], None
        try:
            for fields in self._reader.feed(data):
                self.gateway.take(self, fields)
        except (ConnectionFailed, ValueError, IndexError):
            self.reset()  # as the real one does with what it cannot read

    def send(self, *fields: object) -> bool:
        return self.write(encode(*fields))

    def write(self, data: bytes) -> bool:
        if self.silent or self.transport is None or self.transport.is_closing():
            return False
        for piece in [data[n : n + 1] for n in range(len(data))] if self.drip else [data]:
            self.transport.write(piece)
        return True

    def reset(self) -> None:
        if self.transport is not None:
            sock = self.transport.get_extra_info("socket")
            if sock is not None:  # no lingering makes the close a reset
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()

    def finish(self) -> None:
        if self.transport is not None:
            self.transport.close()


class SimulatedGateway:
    """A gateway on a loopback port that speaks version 176 of the text protocol.

    Its market moves with `step`, or by itself. What it says is on record, so that what a client took from it can be
    compared. Everything here belongs to the event loop that started it.

    Args:
        host: Where to listen.
        port: 0 for any; `port` says which.
        seed: Of its market.
        interval_s: How often its market moves by itself; None for `step` alone.
        deny: By the name of an instrument, the code it answers subscriptions with. Those that are only notices
            (10167) are followed by delayed data.
        tick_by_tick_limit: How many subscriptions of single trades it has.
        paces_history: Whether it answers historical requests that come too fast with 162.
        late_ticks: Whether a cancelled subscription gives one more tick.
        mute_history: Whether historical requests get no answer at all.
        clock: What time it is; the system's if None.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        seed: int = 1,
        interval_s: float | None = None,
        deny: Mapping[str, int] | None = None,
        tick_by_tick_limit: int = 5,
        paces_history: bool = False,
        late_ticks: bool = False,
        mute_history: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self._host = host
        self._port = port
        self._seed = seed
        self._interval_s = interval_s
        self.deny = dict(deny or {})
        self.tick_by_tick_limit = tick_by_tick_limit
        self.paces_history = paces_history
        self.late_ticks = late_ticks
        self.mute_history = mute_history
        self.clock: Clock = clock or SystemClock()
        self.connections: list[_Connection] = []
        self.accepted = 0
        self.refuse_clients = 0
        self.requests: list[Request] = []
        self.quotes: dict[str, list[QuoteSent]] = {}
        self.trades: dict[str, list[TradeSent]] = {}
        self._walks: dict[str, Walk] = {}
        self._history: list[tuple[float, tuple[str, ...]]] = []
        self._server: asyncio.Server | None = None
        self._moving: asyncio.Task[None] | None = None
        self._takes: dict[str, Callable[[_Connection, list[str]], None]] = {
            "71": self._start_api,
            "49": lambda c, _: self._told(c, 49, 1, self._now_s()),
            "1": self._subscribe,
            "2": self._cancel,
            "97": self._subscribe_ticks,
            "98": lambda c, f: self._ended(c.ticks.pop(int(f[1]), None)),
            "20": self._historical,
            "9": self._details,
            "78": self._option_list,
            "50": lambda c, f: c.bars.update({int(f[2]): f[4]}),
            "51": lambda c, f: self._ended(c.bars.pop(int(f[2]), None)),
            "61": lambda c, _: self._told(c, 62, 1),
            "62": lambda c, f: self._told(c, 64, 1, f[2]),
            "6": self._account,
            "76": lambda c, f: self._told(c, 74, 1, f[2]),
            "5": lambda c, _: self._told(c, 53, 1),
            "16": lambda c, _: self._told(c, 53, 1),
            "7": lambda c, f: self._told(c, 55, 1, f[2]),
            "99": lambda c, _: self._told(c, 102),
        }

    @property
    def port(self) -> int:
        """Where it listens, or will again."""
        return self._port

    async def start(self) -> None:
        """Listen; after `stop_listening` on the same port again.

        Raises:
            MarketDataError: The port is taken.
        """
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(self._accept, self._host, self._port)
        except OSError as exc:
            raise MarketDataError(f"cannot listen at {self._host}:{self._port}: {exc}") from exc
        self._port = self._server.sockets[0].getsockname()[1]
        if self._interval_s is not None and self._moving is None:
            self._moving = asyncio.create_task(self._move(self._interval_s), name="simulated market")

    async def close(self) -> None:
        """Drop everybody and stop."""
        if self._moving is not None:
            self._moving.cancel()
            await asyncio.gather(self._moving, return_exceptions=True)
        self.stop_listening()
        self.reset()

    def stop_listening(self) -> None:
        """Refuse new connections until `start`; those that are stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def count(self, kind: int, connection: int | None = None) -> int:
        """Return how many messages of a kind came, on one connection or in all."""
        return len(self.asked(kind, connection))

    def asked(self, kind: int, connection: int | None = None) -> list[Request]:
        """Return the messages of a kind that came, on one connection or in all."""
        return [
            r for r in self.requests if r.fields[0] == str(kind) and (connection is None or r.connection == connection)
        ]

    def step(self, symbol: str | None = None) -> None:
        """Move the market of one instrument, or of all that somebody has subscribed to: both sides and a trade."""
        names = {s.symbol for c in self.connections for s in c.data.values()} if symbol is None else {symbol}
        for name in sorted(names):
            walk = self._walk(name)
            walk.step()
            self._show(walk)
            self._trade(walk, *walk.trade())

    def bar(self, symbol: str, start_s: int, prices: tuple[float, float, float, float], volume: int) -> None:
        """Send a five-second bar of open, high, low and close to those who asked for them."""
        for c in self.connections:
            for number, name in c.bars.items():
                if name == symbol:
                    c.send(50, 3, number, start_s, *prices, volume, prices[3], 1)

    def say(self, code: int, text: str | None = None, *, request_id: int = -1) -> None:
        """Tell everybody a code."""
        for c in list(self.connections):
            c.send(4, 2, request_id, code, TEXTS.get(code, "") if text is None else text, "")

    def say_of(self, symbol: str, code: int) -> None:
        """Tell a code of the subscriptions to one instrument."""
        for c in list(self.connections):
            for number, subscription in list(c.data.items()):
                if subscription.symbol == symbol:
                    c.send(4, 2, number, code, TEXTS.get(code, ""), "")

    def reset(self) -> None:
        """End all connections with a reset."""
        for c in list(self.connections):
            c.reset()

    def finish(self) -> None:
        """End all connections properly."""
        for c in list(self.connections):
            c.finish()

    def silence(self) -> None:
        """Leave all connections open and never say a word on them again."""
        for c in self.connections:
            c.silent = True

    def drip(self) -> None:
        """From now on send byte by byte."""
        for c in self.connections:
            c.drip = True

    def partial(self) -> None:
        """Send half a message to everybody, and nothing after it."""
        for c in self.connections:
            message = encode(1, 6, 1, 1, "100.25", 100, 1)
            c.write(message[: len(message) // 2])
            c.silent = True

    def huge(self) -> None:
        """Announce a message of two gigabytes."""
        for c in self.connections:
            c.write(b"\x7f\xff\xff\xff")

    def garbage(self) -> None:
        """Send everybody messages that make no sense, about subscriptions that exist."""
        for c in self.connections:
            for number in c.data:
                c.send(1, 6, number, 1, "none", 100, 1)
                c.send(2, 6, number)
                c.send(1, 6, number, 1, "nan", 100, 1)
            for number in c.ticks:
                c.send(99, number, 1, "later", 1, 1, 0, "", "")
            c.write(encode() + encode("", "", ""))

    def take(self, connection: _Connection, fields: list[str]) -> None:
        """Take a message of a client.

        Raises:
            ValueError, IndexError: It cannot be read.
        """
        if fields and fields[0].startswith("v") and connection.client_id is None:
            connection.send(VERSION, "20240324 21:18:59 Greenwich Mean Time")
            return
        at_s = self.clock.monotonic_s()
        self.requests.append(Request(at_s=at_s, connection=connection.number, fields=tuple(fields)))
        found = self._takes.get(fields[0])
        if found is not None and not connection.silent:
            found(connection, fields)

    def _accept(self) -> _Connection:
        self.accepted += 1
        return _Connection(self, self.accepted)

    async def _move(self, interval_s: float) -> None:
        while True:
            await self.clock.sleep(interval_s)
            self.step()

    def _now_s(self) -> int:
        return self.clock.now_ns() // NS_PER_SECOND

    def _walk(self, symbol: str) -> Walk:
        return self._walks.setdefault(symbol, Walk(symbol, self._seed))

    def _told(self, c: _Connection, *fields: object) -> None:
        c.send(*fields)

    # What is cancelled may have ended by itself.
    def _ended(self, found: Any) -> None:
        del found

    def _start_api(self, c: _Connection, f: list[str]) -> None:
        client_id = int(f[2])
        if self.refuse_clients or any(o.client_id == client_id for o in self.connections if o is not c):
            self.refuse_clients = max(self.refuse_clients - 1, 0)
            c.send(4, 2, -1, 326, TEXTS[326], "")
            c.finish()
            return
        c.client_id = client_id
        c.send(15, 1, ACCOUNT)
        c.send(9, 1, 1)
        c.send(4, 2, -1, 2104, TEXTS[2104], "")
        c.send(4, 2, -1, 2158, "Sec-def data farm connection is OK:secdefil", "")

    def _subscribe(self, c: _Connection, f: list[str]) -> None:
        number, name = int(f[2]), _name(f[3:15])
        code = self.deny.get(name)
        if code is not None:
            c.send(4, 2, number, code, TEXTS.get(code, ""), "")
            if code != _DELAYED_NOTICE:
                return
        subscription = _Subscription(name, f[16], is_delayed=code is not None)
        c.send(81, number, 0.01, "", 3)
        c.send(58, 1, number, 3 if subscription.is_delayed else 1)
        walk = self._walk(name)
        if f[17] == "1":
            self._show_one(c, number, subscription, walk)
            c.send(57, 1, number)
            return
        c.data[number] = subscription
        self._show_one(c, number, subscription, walk, on_record=True)

    def _cancel(self, c: _Connection, f: list[str]) -> None:
        subscription = c.data.pop(int(f[2]), None)
        if subscription is None:
            c.send(4, 2, int(f[2]), 300, f"Can't find EId with tickerId:{f[2]}", "")
        elif self.late_ticks:
            c.send(1, 6, int(f[2]), 1, 1.0, 1, 1)

    def _subscribe_ticks(self, c: _Connection, f: list[str]) -> None:
        if len(c.ticks) >= self.tick_by_tick_limit:
            c.send(4, 2, int(f[1]), 10190, TEXTS[10190], "")
        else:
            c.ticks[int(f[1])] = _name(f[2:14])

    def _show(self, walk: Walk) -> None:
        for c in self.connections:
            for number, subscription in c.data.items():
                if subscription.symbol == walk.symbol:
                    self._show_one(c, number, subscription, walk, on_record=True)

    def _show_one(self, c: _Connection, number: int, s: _Subscription, walk: Walk, *, on_record: bool = False) -> None:
        for tick, price, size in ((1, walk.bid, walk.bid_size), (2, walk.ask, walk.ask_size)):
            said = self._say_price(c, number, s, (tick, price, size))
            if said and s.view.get(tick) != (price, size):
                s.view[tick] = (price, size)
                if on_record:
                    bid, ask = s.view.get(1, (None, None)), s.view.get(2, (None, None))
                    self.quotes.setdefault(s.symbol, []).append((*bid, *ask))

    def _say_price(self, c: _Connection, number: int, s: _Subscription, said: tuple[int, float, int]) -> bool:
        tick, price, size = said
        price_tick, size_tick = tick, _SIZE_OF[tick]
        if s.is_delayed:
            price_tick, size_tick = _DELAYED[price_tick], _DELAYED[size_tick]
        return c.send(1, 6, number, price_tick, price, size, 1) and c.send(2, 6, number, size_tick, size)

    def _trade(self, walk: Walk, price: float, size: int) -> None:
        now_ns = self.clock.now_ns()
        second = now_ns // NS_PER_SECOND
        said = False
        for c in self.connections:
            for number, name in c.ticks.items():
                if name == walk.symbol:
                    said |= c.send(99, number, 1, second, price, size, 0, "NASDAQ", "")
            for number, s in c.data.items():
                if s.symbol == walk.symbol:
                    self._say_price(c, number, s, (4, price, size))
                    if "233" in s.generics and not s.is_delayed:
                        text = f"{price};{size};{now_ns // 1_000_000};{walk.volume};{price};true"
                        said |= c.send(46, 6, number, 48, text)
        if said:
            self.trades.setdefault(walk.symbol, []).append((second, price, size))

    def _historical(self, c: _Connection, f: list[str]) -> None:
        number, now_s = int(f[1]), self.clock.monotonic_s()
        asked = tuple(f[2:])
        self._history = [(t, a) for t, a in self._history if t > now_s - _BUDGET_S]
        is_identical = any(a == asked and t > now_s - _IDENTICAL_S for t, a in self._history)
        self._history.append((now_s, asked))
        if self.paces_history and (is_identical or len(self._history) > _BUDGET):
            c.send(4, 2, number, 162, TEXTS[162], "")
            return
        code = self.deny.get(_name(f[2:14]))
        if code is not None:
            c.send(4, 2, number, code, TEXTS.get(code, ""), "")
            return
        if not self.mute_history:
            c.send(*historical_bars(f, self._seed))

    def _details(self, c: _Connection, f: list[str]) -> None:
        code = self.deny.get(_name(f[3:15]))
        if code is not None:
            c.send(4, 2, int(f[2]), code, TEXTS.get(code, ""), "")
            return
        c.send(*contract_details(f))
        c.send(52, 1, f[2])

    def _option_list(self, c: _Connection, f: list[str]) -> None:
        for exchange in ("SMART", "CBOE"):
            c.send(75, f[1], exchange, f[5], f[2], 100, 2, "20241220", "20250117", 3, 140, 150, 152.5)
        c.send(76, f[1])

    def _account(self, c: _Connection, f: list[str]) -> None:
        del f
        c.send(6, 2, "AccountCode", ACCOUNT, "", ACCOUNT)
        c.send(6, 2, "NetLiquidation", "100000.00", "USD", ACCOUNT)
        c.send(8, 1, datetime.fromtimestamp(self._now_s(), UTC).strftime("%H:%M"))
        c.send(54, 1, ACCOUNT)


# The twelve fields of a contract as one name: a pair by both currencies, all else by the symbol.
def _name(contract: list[str]) -> str:
    return f"{contract[1]}.{contract[9]}" if contract[2] in {"CASH", "CRYPTO"} else contract[1]
