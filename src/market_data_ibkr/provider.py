"""The provider as the engine and as users see it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from market_data_core.batch import Instrument, SourceBatch
from market_data_core.clock import Clock, SystemClock
from market_data_core.errors import (
    ConfigurationError,
    ConnectionFailed,
    ProviderError,
    SourceError,
)
from market_data_core.models import Bar, EventMeta, OptionChain, Quote, Trade
from market_data_core.protocols import Gap
from market_data_core.schemas import Kind, Origin
from market_data_ibkr.chains import Chains
from market_data_ibkr.codes import IDENTICAL_WAIT_S
from market_data_ibkr.contracts import Contract, parse_symbol
from market_data_ibkr.feed import Feed, FeedSettings
from market_data_ibkr.history import Gatherer, History
from market_data_ibkr.lines import HELD_BACK, VENDOR, Book, Line, LineState
from market_data_ibkr.outlet import Outlet, Row
from market_data_ibkr.pacing import HISTORY_COUNT, HISTORY_WINDOW_S
from market_data_ibkr.session import Session, SessionSettings

_KINDS: Final = frozenset({Kind.QUOTES, Kind.TRADES})
# How soon a reader without ticks is told that there will be none.
_LOOK_S: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LineStatus:
    """How one symbol is doing.

    Attributes:
        state: ``pending``, ``live``, ``stale`` or ``dead``.
        cause: Why it is stale or dead.
        code: The gateway's code for that, where there was one.
        last_seen_ns: When its newest tick came, UTC nanoseconds; 0 before the first.
        sampled: Whether its trades are sampled rather than given one by one.
    """

    state: LineState
    cause: str
    code: int | None
    last_seen_ns: int
    sampled: bool


class IBKRProvider:
    """Market data of Interactive Brokers through TWS or IB Gateway; a `BatchSource`, a `TickSource` and more.

    Connects when it is first read or asked, and again whenever the connection is lost. Wherever ticks may be missing
    (connection lost, gateway without its servers, data farm away, line cancelled) a `Gap` from the last tick seen to
    the first new one stands between the batches. Belongs to the event loop that uses it first.

    Quotes are the whole top of the book after each change. They are sampled by the vendor, which gives no time of them:
    `ts_event` is our time of receipt, flag ``TS_EVENT_SYNTHETIC``. Delayed or frozen ones are flagged
    ``PUBLISHER_SPECIFIC``. Trades come one by one for the first symbols (`tick_by_tick`), `ts_event` a whole second;
    for the others they are sampled, to the millisecond, and flagged ``PUBLISHER_SPECIFIC``.

    Args:
        symbols: In the notation of `market_data_ibkr.contracts`.
        host: Where the gateway is.
        port: Its port: 7497 and 7496 of TWS, 4002 and 4001 of IB Gateway (paper, live).
        client_id: One connection each.
        market_data_type: 1 live, 2 frozen, 3 delayed, 4 delayed and frozen.
        kinds: What `batches` and `stream` give.
        tick_by_tick: For how many symbols trades are asked for one by one; an account has at least three.
        max_lines: How many symbols the account may subscribe to.
        heartbeat_s: How often the gateway is asked whether it lives,
        heartbeat_timeout_s: and how long it may take to answer.
        connect_timeout_s: How long connecting may take, and how long a request waits for it.
        backoff_s: Wait before the first reconnect; doubles, with jitter,
        backoff_max_s: up to this.
        verify_s: How long a line may give nothing after the gateway said it is back.
        retry_s: When a line is tried again that was refused for a reason that passes.
        request_timeout_s: How long a quote or a piece of history may take.
        history_wait_s: How long a historical request may wait for the vendor's budget.
        messages_per_s: What is sent at most; the gateway allows 50.
        linger_s: How long ticks are gathered into a batch.
        clock: What time is; the system's if None.

    Raises:
        ConfigurationError: A symbol, a kind or a number cannot be right; says which.
    """

    vendors = (VENDOR,)
    """Whose events it gives."""
    history_budget: ClassVar[Mapping[str, float]] = {
        "capacity": HISTORY_COUNT,
        "refill_rate": HISTORY_COUNT / HISTORY_WINDOW_S,
        "cooldown_sec": IDENTICAL_WAIT_S,
    }
    """How often history can be asked for, as a `RateController` is told of it."""

    def __init__(
        self,
        *,
        symbols: Sequence[str],
        host: str = "127.0.0.1",
        port: int = 7497,
        client_id: int = 1,
        market_data_type: int = 1,
        kinds: Sequence[str] = ("quotes", "trades"),
        tick_by_tick: int = 3,
        max_lines: int = 100,
        heartbeat_s: float = 10.0,
        heartbeat_timeout_s: float = 10.0,
        connect_timeout_s: float = 10.0,
        backoff_s: float = 0.5,
        backoff_max_s: float = 60.0,
        verify_s: float = 30.0,
        retry_s: float = 60.0,
        request_timeout_s: float = 30.0,
        history_wait_s: float = 60.0,
        messages_per_s: int = 45,
        linger_s: float = 0.001,
        clock: Clock | None = None,
    ) -> None:
        _check(
            heartbeat_s=heartbeat_s,
            heartbeat_timeout_s=heartbeat_timeout_s,
            connect_timeout_s=connect_timeout_s,
            backoff_s=backoff_s,
            backoff_max_s=backoff_max_s,
            request_timeout_s=request_timeout_s,
            max_lines=max_lines,
        )
        if market_data_type not in {1, 2, 3, 4} or not 1 <= messages_per_s <= 50 or min(linger_s, tick_by_tick) < 0:
            raise ConfigurationError(
                f"ibkr provider: market_data_type {market_data_type} is not 1 to 4, messages_per_s {messages_per_s} "
                f"not 1 to 50, or linger_s {linger_s} or tick_by_tick {tick_by_tick} below 0"
            )
        self._kinds = _kinds(kinds)
        self._clock = clock or SystemClock()
        self._max_lines = max_lines
        self._tick_by_tick = tick_by_tick
        self._linger_s = linger_s
        self._request_timeout_s = request_timeout_s
        self._history_wait_s = history_wait_s
        self._session_settings = SessionSettings(
            host=host,
            port=port,
            client_id=client_id,
            connect_timeout_s=connect_timeout_s,
            heartbeat_s=heartbeat_s,
            heartbeat_timeout_s=heartbeat_timeout_s,
            backoff_s=backoff_s,
            backoff_max_s=backoff_max_s,
            messages_per_s=messages_per_s,
        )
        self._feed = Feed(
            settings=FeedSettings(market_data_type=market_data_type, verify_s=verify_s, retry_s=retry_s),
            clock=self._clock,
            trades=Kind.TRADES in self._kinds,
        )
        self._instruments: list[Instrument] = []
        for symbol in symbols:
            self._line(symbol)
        self._symbols = tuple(self._feed.lines)
        self._session: Session | None = None
        self._history: History | None = None
        self._running: asyncio.Task[None] | None = None
        self._closed = asyncio.Event()

    @property
    def name(self) -> str:
        """``ibkr``."""
        return VENDOR

    @property
    def origin(self) -> Origin:
        """Always live."""
        return Origin.LIVE

    @property
    def waits(self) -> bool:
        """Never: the vendor does not wait."""
        return False

    @property
    def symbols(self) -> Sequence[str]:
        """What was asked for, upper-cased, in order."""
        return self._symbols

    @property
    def status(self) -> str:
        """``pending`` before the first tick, ``stale`` while any line may miss ticks, ``live``, or ``closed``."""
        if self._closed.is_set():
            return "closed"
        states = {line.state for line in self._feed.lines.values()}
        if LineState.STALE in states:
            return "stale"
        return "live" if LineState.LIVE in states else "pending"

    @property
    def lines(self) -> Mapping[str, LineStatus]:
        """How each symbol is doing."""
        return {
            s: LineStatus(
                state=line.state,
                cause=line.problem if line.state is LineState.DEAD else line.cause,
                code=line.code,
                last_seen_ns=line.last_seen_ns,
                sampled=not line.by_tick,
            )
            for s, line in self._feed.lines.items()
        }

    @property
    def counters(self) -> dict[str, int]:
        """How often: ``connections``, ``bad_messages``, ``late_messages``, ``gaps``, ``bad_bars``."""
        session, history = self._session, self._history
        return {
            "connections": session.connections if session else 0,
            "bad_messages": session.bad_messages if session else 0,
            "late_messages": self._feed.counts["late_messages"],
            "gaps": self._feed.counts["gaps"],
            "bad_bars": history.bad_bars if history else 0,
        }

    async def batches(self, resume: Mapping[str, int]) -> AsyncGenerator[SourceBatch | Gap, None]:
        """Give what comes until `close`, quotes before trades of each moment; then what is missing still.

        Args:
            resume: Of no use: what was sent once, the gateway cannot send again.

        Raises:
            SourceError: The gateway refuses every symbol; says why.
        """
        del resume
        outlet = Outlet(kinds=self._kinds)
        async with aclosing(self._reading(outlet)) as turns:
            async for _ in turns:
                instruments = tuple(self._instruments)
                for item in outlet.batches(instruments):
                    yield item

    async def stream(self) -> AsyncGenerator[Quote | Trade, None]:
        """Give quotes and trades one by one, as they come, until `close`.

        Raises:
            SourceError: As of `batches`.
        """
        async with aclosing(self._values(Outlet(kinds=self._kinds))) as values:
            async for value in values:
                yield value

    async def stream_quotes(self, symbols: Sequence[str]) -> AsyncGenerator[Quote, None]:
        """Give the quotes of some symbols, subscribing to those that are new.

        Raises:
            ConfigurationError: A symbol is not written as it should be, or there are too many.
            SourceError: As of `batches`.
        """
        wanted = frozenset(self._line(symbol).instrument for symbol in symbols)
        async with aclosing(self._values(Outlet(kinds=frozenset({Kind.QUOTES}), instruments=wanted))) as values:
            async for value in values:
                if isinstance(value, Quote):
                    yield value

    async def stream_trades(self, symbols: Sequence[str]) -> AsyncGenerator[Trade, None]:
        """Give the trades of some symbols, subscribing to those that are new.

        Raises:
            ConfigurationError: A symbol is not written as it should be, there are too many, or the provider was made
                without trades.
            SourceError: As of `batches`.
        """
        if Kind.TRADES not in self._kinds:
            raise ConfigurationError(f"ibkr provider: trades are not among its kinds {sorted(self._kinds)}")
        wanted = frozenset(self._line(symbol).instrument for symbol in symbols)
        async with aclosing(self._values(Outlet(kinds=frozenset({Kind.TRADES}), instruments=wanted))) as values:
            async for value in values:
                if isinstance(value, Trade):
                    yield value

    async def stream_bars(self, symbols: Sequence[str], resolution: str) -> AsyncGenerator[Bar, None]:
        """Give bars of trades as they close, made of the vendor's five-second bars.

        Ends when the connection does: bars that were missed are in `request_historical_bars`.

        Raises:
            ConfigurationError: A symbol is not written as it should be, or the length is no multiple of five seconds.
            ConnectionFailed: The connection is away, or was lost.
        """
        session, _ = await self._ready()
        waiting: deque[Bar] = deque()
        ready = asyncio.Event()

        def give(bar: Bar) -> None:
            waiting.append(bar)
            ready.set()

        numbers: list[int] = []
        epoch = session.connections
        try:
            for symbol in symbols:
                name, contract = _named(symbol)
                gatherer = Gatherer(symbol=name, resolution=resolution, give=give, now_ns=self._clock.now_ns)
                numbers.append(session.new_id())
                self._feed.on_bars(numbers[-1], gatherer.take)
                await session.send(50, 3, numbers[-1], *contract.fields, 5, "TRADES", 0, "")
            while not self._closed.is_set():
                while waiting:
                    yield waiting.popleft()
                ready.clear()
                await self._first_of(ready, self._closed, timeout_s=self._session_settings.heartbeat_s)
                if not waiting and (not session.is_up or session.connections != epoch):
                    raise ConnectionFailed("live bars: the connection to the gateway was lost")
        finally:
            for number in numbers:
                self._feed.on_bars(number, None)
                if session.is_up and session.connections == epoch:
                    await session.send(51, 1, number)

    async def request_historical_bars(
        self, symbol: str, resolution: str, *, start_ns: int, end_ns: int, what: str = "TRADES"
    ) -> Sequence[Bar]:
        """Return bars with start in ``[start_ns, end_ns)``, ascending, each once, all hours; empty if there are none.

        Bars of a day stand at midnight UTC of the exchange's date. `session` of each is ``ALL``.

        Args:
            symbol: In the notation of `market_data_ibkr.contracts`.
            resolution: ``1s`` to ``8h`` in the vendor's steps, or ``1d``.
            start_ns: Inclusive, UTC nanoseconds.
            end_ns: Exclusive, UTC nanoseconds.
            what: ``TRADES``, ``MIDPOINT``, ``BID``, ``ASK`` or ``BID_ASK``, which counts twice.

        Raises:
            ConfigurationError: Symbol or resolution cannot be right.
            PacingViolation: The budget is spent; `retry_after_sec` says for how long.
            ProviderError: The gateway refused.
            TemporaryUnavailable: No answer in time.
        """
        name, contract = _named(symbol)
        _, history = await self._ready()
        return await history.bars(name, contract, resolution, start_ns=start_ns, end_ns=end_ns, what=what)

    async def stream_options(self, underlying: str) -> AsyncGenerator[OptionChain, None]:
        """Give the chain of an underlying: once now, then whenever the vendor lists other contracts.

        The chain says which options there are. What they stand at is asked for by their own symbols.

        Raises:
            ConfigurationError: The symbol is not written as it should be.
            ProviderError: The gateway refused.
            TemporaryUnavailable: No answer in time.
        """
        name, contract = _named(underlying)
        session, _ = await self._ready()
        chains = Chains(session=session, clock=self._clock, timeout_s=self._request_timeout_s)
        async with aclosing(chains.changes(name, contract, self._closed)) as found:
            async for chain in found:
                yield chain

    async def get_quote(self, symbol: str) -> Quote:
        """Return how a symbol stands: from its live line if it has one, else from a snapshot.

        Raises:
            ConfigurationError: The symbol is not written as it should be.
            ProviderError: The gateway refused: `InvalidInstrument`, `PermissionsMissing`, `ConnectionFailed`.
            TemporaryUnavailable: No answer in time.
        """
        name, contract = _named(symbol)
        session, _ = await self._ready()
        line = self._feed.lines.get(name)
        if line is not None and line.state is LineState.LIVE and line.book.bid is not None:
            return _quote_of(name, line.book, line.last_seen_ns)
        messages = await session.ask(
            f"quote of {name}",
            lambda number: (1, 11, number, *contract.fields, 0, "", 1, 0, ""),
            is_last=lambda fields: fields[0] == "57",
            timeout_s=self._request_timeout_s,
            cancel=(2, 2),
        )
        book = Book()
        try:
            for fields in messages:
                if fields[0] == "1":
                    book.price(int(fields[3]), fields[4], fields[5])
                elif fields[0] == "2":
                    book.size(int(fields[3]), fields[4])
        except (ValueError, IndexError) as exc:
            raise ProviderError(f"quote of {name}: the answer cannot be read: {exc}") from exc
        return _quote_of(name, book, self._clock.now_ns())

    async def close(self) -> None:
        """Disconnect; readers are given what waits and end. May be called twice."""
        if not self._closed.is_set():
            self._feed.put_open_gaps()
            self._closed.set()
            for outlet in self._feed.outlets:
                outlet.ready.set()
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    # Makes what is not there yet; a closed provider makes nothing.
    def _start(self) -> tuple[Session, History]:
        if self._closed.is_set():
            raise ConnectionFailed("the ibkr provider is closed")
        if self._session is None or self._history is None:
            self._session = Session(settings=self._session_settings, handler=self._feed, clock=self._clock)
            self._feed.over(self._session)
            self._history = History(
                session=self._session,
                clock=self._clock,
                max_wait_s=self._history_wait_s,
                timeout_s=self._request_timeout_s,
            )
            self._running = asyncio.create_task(self._session.run(), name="ibkr: session")
        return self._session, self._history

    async def _ready(self) -> tuple[Session, History]:
        session, history = self._start()
        await session.wait_up(self._session_settings.connect_timeout_s)
        return session, history

    # One turn for each time that something waits in the outlet; ends with `close`, or if nothing can come any more.
    async def _reading(self, outlet: Outlet) -> AsyncGenerator[None, None]:
        if self._closed.is_set():
            return
        self._start()
        self._feed.outlets.add(outlet)
        try:
            while not self._closed.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_S):
                        await outlet.ready.wait()
                self._check_running()
                if outlet.ready.is_set():
                    if self._linger_s and not self._closed.is_set():
                        await self._clock.sleep(self._linger_s)
                    yield
            yield
        finally:
            self._feed.outlets.discard(outlet)

    async def _first_of(self, *events: asyncio.Event, timeout_s: float) -> None:
        waits = [asyncio.create_task(event.wait()) for event in events]
        try:
            await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _check_running(self) -> None:
        running = self._running
        if running is not None and running.done() and not running.cancelled() and (exc := running.exception()):
            raise SourceError(f"ibkr provider: the session ended: {exc}") from exc
        lines = self._feed.lines.values()
        if lines and all(line.state is LineState.DEAD for line in lines):
            raise SourceError("ibkr provider: no symbol left; " + "; ".join(line.problem for line in lines))

    async def _values(self, outlet: Outlet) -> AsyncGenerator[Quote | Trade, None]:
        async with aclosing(self._reading(outlet)) as turns:
            async for _ in turns:
                for item in outlet.rows():
                    if not isinstance(item, Gap):
                        yield self._value(*item)

    def _value(self, kind: Kind, row: Row) -> Quote | Trade:
        instrument, ts_event, ts_recv, flags, *rest = row
        values: list[Any] = rest
        symbol = self._instruments[instrument].symbol
        meta = EventMeta.model_construct(vendor=VENDOR, ts_recv_ns=ts_recv, seq=None, flags=flags, origin=Origin.LIVE)
        if kind is Kind.QUOTES:
            names = ("bid", "bid_size", "ask", "ask_size")
            held_back = bool(flags & HELD_BACK)
            return Quote.from_ns(
                ts_event, symbol=symbol, meta=meta, delayed=held_back, **dict(zip(names, values, strict=True))
            )
        names = ("price", "size", "exchange", "conditions")
        held_back = self._feed.lines[symbol].book.held_back
        return Trade.from_ns(
            ts_event, symbol=symbol, meta=meta, delayed=held_back, **dict(zip(names, values, strict=True))
        )

    def _line(self, symbol: str) -> Line:
        name, contract = _named(symbol)
        known = self._feed.lines.get(name)
        if known is not None:
            return known
        if len(self._feed.lines) >= self._max_lines:
            raise ConfigurationError(f"ibkr provider: {name!r} is more than the {self._max_lines} lines it may have")
        taken = sum(line.by_tick for line in self._feed.lines.values())
        line = Line(
            symbol=name,
            instrument=len(self._instruments),
            contract=contract,
            by_tick=contract.has_tick_by_tick and taken < self._tick_by_tick,
        )
        self._instruments.append(Instrument(vendor=VENDOR, symbol=name))
        self._feed.add(line)
        return line


def _named(symbol: str) -> tuple[str, Contract]:
    return symbol.strip().upper(), parse_symbol(symbol)


def _quote_of(symbol: str, book: Book, ts_ns: int) -> Quote:
    return Quote.from_ns(
        ts_ns,
        symbol=symbol,
        bid=book.bid,
        bid_size=book.bid_size,
        ask=book.ask,
        ask_size=book.ask_size,
        last=book.last,
        volume=book.volume,
        delayed=book.held_back,
    )


def _kinds(kinds: Sequence[str]) -> frozenset[Kind]:
    wrong = set(map(str, kinds)) - set(map(str, _KINDS))
    if wrong or not kinds:
        raise ConfigurationError(f"ibkr provider: kinds {list(kinds)} are not among {sorted(map(str, _KINDS))}")
    return frozenset(map(Kind, kinds))


def _check(**positive: float) -> None:
    for name, value in positive.items():
        if value <= 0:
            raise ConfigurationError(f"ibkr provider: {name} {value} must be positive")
