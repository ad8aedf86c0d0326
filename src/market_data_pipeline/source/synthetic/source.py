"""The synthetic source as the engine and as users read it."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa

from market_data_core.batch import Instrument, SourceBatch, unlogged
from market_data_core.clock import NS_PER_SECOND, Clock, SystemClock
from market_data_core.errors import ConfigurationError, InvalidInstrument
from market_data_core.models import Quote
from market_data_core.protocols import END_OF_TIME_NS, Mark
from market_data_core.schemas import Kind, Origin
from market_data_pipeline.events import Event, stream_events
from market_data_pipeline.source.synthetic.bursts import BurstRate
from market_data_pipeline.source.synthetic.defects import Defects, Stretches, parse_defects
from market_data_pipeline.source.synthetic.draws import key_of
from market_data_pipeline.source.synthetic.injection import VERSION, Injector
from market_data_pipeline.source.synthetic.market import MAX_SYMBOLS, PRICE_DECIMALS, SIZE_DECIMALS, Market
from market_data_pipeline.source.synthetic.schedule import Ints, Mix, Pace, Rate
from market_data_pipeline.source.synthetic.timeline import Closing, RealTimeline, Stretch, Timeline, VirtualTimeline

VENDOR: Final = "synthetic"
DEFAULT_SYMBOLS: Final = (
    *("AAPL", "MSFT", "NVDA", "TSLA", "AMZN", "SPY", "QQQ", "META", "GOOGL", "AMD"),
    *("NFLX", "INTC", "JPM", "BAC", "XOM", "DIS", "KO", "PFE", "IBM", "GE"),
)
DEFAULT_START_NS: Final = 1_704_205_800 * NS_PER_SECOND
"""2024-01-02T14:30Z, the year's first opening of the New York exchanges."""
UNPACED_VIRTUAL_RATE: Final = 1_000_000
"""Events per second of virtual time where the rate is 0."""

_KINDS: Final = (Kind.QUOTES, Kind.TRADES)
_ENDLESS: Final = 2**63 - 1
# Made at once for the batches to come: ten events cost as much to make as a thousand.
_AHEAD: Final = 1024


class SyntheticSource:
    """Made-up quotes and trades; a `BatchSource` for the engine and a `TickSource` for users.

    Event n is a function of seed, symbols, mix and n alone: symbol, kind, prices and sizes are the same at any rate,
    in any batches and from whichever event a run begins. Quotes and trades are two sequences with offsets of their
    own, ``<source id>:quotes`` and ``<source id>:trades``, in one schedule; each stretch of it is given as one batch
    of quotes and one of trades, so between the two `ts_event` goes back by at most one stretch. Prices are on a tick
    of 0.01, bid below ask, sizes whole.

    Made-up data may have the defects of real data. Like all else they are a function of seed and n, and they can be
    asked for by name, each as a mapping of its parameters, the last six also as a bare share:

    - ``gaps``: for `for_s` in every `every_s`, events are not given; all, or those of some `symbols`. No venue sequence
      comes with the events. Trade ids and offsets count on over a gap, so trades show it; in quotes it is a silence.
    - ``silence``: for `for_s` in every `every_s`, some `symbols`, or one drawn each time, have no events. Others have
      more instead.
    - ``bursts``: for `for_s` in every `every_s`, the rate is multiplied by `factor` (10).
    - ``duplicates``: a `share` of trades comes again with the same id, `after` so many other trades (0).
    - ``late``: `ts_event` of a `share` of events is older by `by_s` (5); when they come stays as it is.
    - ``out_of_order``: the same, older by anything up to `by_s` (0.1).
    - ``crossed``: bid and ask of a `share` of quotes are swapped.
    - ``spikes``: the price of a `share` of events is multiplied by `factor` (10); of a quote both prices move.
    - ``bad_values``: a `share` of events has one of `what`: a price that is ``nan`` or ``negative`` (of quotes the bid)
      or, trades only, ``zero_size``.

    Shares are exact: of 100,000 trades, 0.001 are 100, one at a random place in each thousand. Stretches lie at random
    places in their periods, and periods are counted in the schedule's own time, in which event n stands at n / rate,
    bursts included. At most one thing is wrong with a price, and an event is late or out of order, not both; what an
    event is spared for that is not counted. A repeat has its original's price and time. Bad values are not repeated,
    nor is what fell into a gap.

    Args:
        symbols: Tickers, the busiest first; or how many made-up ones (``SYN0000`` and on).
        seed: Another seed is another market.
        rate: Events per second in total, quotes and trades together; 0 means as fast as they are read.
        kinds: Turns of (quotes, trades).
        clock: What real time is; the system's if None.
        time: ``real``: events come when they are due and `ts_event` is the present; a reader who is more than a second
            behind misses time, not events. ``virtual``: event n stands at ``start_ns + n / rate`` (a million a second
            where the rate is 0) and comes as fast as it is read.
        start_ns: Where virtual time begins, UTC nanoseconds since the epoch.
        count: Events in the whole sequence, those before a resume included; then comes a mark that closes
            everything. None goes on for ever.
        batch_rows: Most events in one stretch; repeats come on top of it.
        linger_s: In real time, how long events are gathered.
        max_skew_s: In virtual time, the longest stretch, and so how far the two kinds may be apart, but for events that
            are late or out of order.
        defects: What is to be wrong, such as ``{"duplicates": 0.01, "late": {"share": 0.02, "by_s": 5}}``. What it asks
            for is part of `source_id`.

    Raises:
        ConfigurationError: An argument is out of range; the message names it.
    """

    vendors = (VENDOR,)
    """Whose events it gives."""

    def __init__(
        self,
        *,
        symbols: Sequence[str] | int = DEFAULT_SYMBOLS,
        seed: int = 1,
        rate: float = 1000,
        kinds: tuple[int, int] = (4, 1),
        clock: Clock | None = None,
        time: Literal["real", "virtual"] = "real",
        start_ns: int = DEFAULT_START_NS,
        count: int | None = None,
        batch_rows: int = 8192,
        linger_s: float = 0.001,
        max_skew_s: float = 0.1,
        defects: Mapping[str, Any] | None = None,
    ) -> None:
        self._symbols = _named(symbols)
        self._places = {symbol: i for i, symbol in enumerate(self._symbols)}
        self._instruments = tuple(
            Instrument(vendor=VENDOR, symbol=s, price_decimals=PRICE_DECIMALS, size_decimals=SIZE_DECIMALS)
            for s in self._symbols
        )
        if min(count or 0, start_ns, linger_s) < 0 or batch_rows < 1 or max_skew_s <= 0:
            raise ConfigurationError(
                f"synthetic source: count {count}, start_ns {start_ns} and linger_s {linger_s} may not be negative, "
                f"batch_rows {batch_rows} and max_skew_s {max_skew_s} must be positive"
            )
        self._market = Market(self._symbols, seed=seed)
        self._mix = Mix(*kinds)
        self._rate = None if rate == 0 else Rate(rate)
        self._clock = clock or SystemClock()
        self._start_ns = start_ns
        self._count = count
        self._batch_rows = batch_rows
        self._linger_s = linger_s
        self._max_skew_s = max_skew_s
        self._virtual = _is_virtual(time)
        self._defects = parse_defects(defects, self._symbols)
        self._check_defects()
        self._injector = self._new_injector()
        self._source_id = f"synthetic:{seed}:{self._fingerprint()}"
        self._position = 0
        self._made: dict[Kind, _Made] = {}
        self._status = "pending"
        self._closed = Closing()
        self._timeline = self._new_timeline()

    @property
    def name(self) -> str:
        """``synthetic``."""
        return VENDOR

    @property
    def origin(self) -> Origin:
        """Always synthetic: no market has seen these events."""
        return Origin.SYNTHETIC

    @property
    def waits(self) -> bool:
        """True in virtual time; real time does not wait."""
        return self._virtual

    @property
    def symbols(self) -> Sequence[str]:
        """Tickers in the order given, upper-cased."""
        return self._symbols

    @property
    def status(self) -> str:
        """``pending`` until the first event, then ``live``; ``closed`` after `close` or the last event."""
        return self._status

    @property
    def source_id(self) -> str:
        """Names the whole sequence; quotes and trades have this with ``:quotes`` and ``:trades`` behind it.

        Covers what the events depend on: seed, symbols, mix and count, in virtual time also rate and start.
        """
        return self._source_id

    @property
    def injected(self) -> dict[str, int]:
        """By defect asked for, how many events have it of those given since `batches` or `stream` was begun last.

        Of ``gaps`` those withheld, of ``silence`` those that others had instead of a silent symbol, of ``bursts`` those
        that came in one. ``bad_values`` is told by kind as well, as ``bad_values.nan`` and so on. Repeats count as
        ``duplicates`` and as nothing else.
        """
        return {} if self._injector is None else dict(self._injector.injected)

    async def batches(self, resume: Mapping[str, int]) -> AsyncGenerator[SourceBatch | Mark, None]:
        """Give the events from where `resume` says on, quotes before trades within each stretch.

        In real time the numbering goes on and time is the present. With a `count`, the last items are the marks that
        end each sequence, one event beyond its last.

        Args:
            resume: By source id, the exclusive end of what is already safe. Other sources' ids are ignored.

        Raises:
            SourceError: Virtual time has run past what int64 nanoseconds can say (the year 2262).
        """
        done = {kind: resume.get(self._sequence(kind), 0) for kind in _KINDS}
        place = self._first_place(done)
        self._timeline = timeline = self._new_timeline()
        if self._injector is not None:
            self._injector.forget()
        end = _ENDLESS if self._count is None else self._count
        while not self._closed.is_set() and place < end:
            stretch = await timeline.take(place, end)
            if stretch is None or self._closed.is_set():
                return
            self._status = "live"
            for batch in self._fill(stretch, done):
                yield batch
                if self._closed.is_set():
                    return
            self._position = place = stretch.end
        if self._count is not None and not self._closed.is_set():
            self._status = "closed"
            for kind in _KINDS:
                offset = self._offset(kind, self._mix.before(kind, self._count)) + 1
                if done[kind] < offset:
                    yield Mark(vendor=VENDOR, ts_ns=END_OF_TIME_NS, source_id=self._sequence(kind), offset=offset)

    async def stream(self) -> AsyncGenerator[Event, None]:
        """Give the events from the first on, one by one, in the order of `ts_event`; none after `close`.

        Those that are late or out of order come where they come.
        """
        async with aclosing(stream_events(self, self._clock)) as events:
            async for event in events:
                yield event
                if self._closed.is_set():
                    return

    async def get_quote(self, symbol: str) -> Quote:
        """Return how a symbol stands where the stream is now.

        Raises:
            InvalidInstrument: The source does not have the symbol.
        """
        number = self._places.get(symbol.upper())
        if number is None:
            raise InvalidInstrument(f"synthetic source has no symbol {symbol!r}; it has {len(self._symbols)} others")
        row = self._market.quote(number, self._position)
        return Quote.from_ns(self._timeline.now_ns(self._position), symbol=self._symbols[number], **row)

    async def close(self) -> None:
        """Stop giving events; a reader who waits for the next one is told at once. May be called twice."""
        self._status = "closed"
        self._closed.set()

    def _sequence(self, kind: Kind) -> str:
        return f"{self._source_id}:{kind}"

    def _fingerprint(self) -> str:
        rate = self._rate or Rate(UNPACED_VIRTUAL_RATE)
        times = [self._start_ns, rate.events, rate.period_ns] if self._virtual else ["real"]
        parts = [self._market.identity, self._mix.quotes, self._mix.trades, *times, self._count]
        if self._injector is not None:
            asked = (f"{name} {getattr(self._defects, name)}" for name in self._defects.names)
            parts += [VERSION, *asked, rate.events, rate.period_ns]
        return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:16]

    def _check_defects(self) -> None:
        oldest_ns = max((p.by_ns for p in (self._defects.late, self._defects.out_of_order) if p is not None), default=0)
        if self._virtual and self._start_ns < oldest_ns:
            raise ConfigurationError(
                f"synthetic source: start_ns {self._start_ns} leaves no room for events {oldest_ns} ns late"
            )
        if self._defects.bursts is not None and self._rate is None and not self._virtual:
            raise ConfigurationError("synthetic source: defect bursts multiplies the rate, but rate is 0")

    # When the schedule has events: what bursts make of the rate. None for as fast as they are read.
    def _pace(self) -> Pace | None:
        rate = self._rate or (Rate(UNPACED_VIRTUAL_RATE) if self._virtual else None)
        bursts = self._defects.bursts
        return rate if bursts is None or rate is None else self._bursting(rate, bursts)

    def _bursting(self, rate: Rate, bursts: Stretches) -> BurstRate:
        return BurstRate(
            usual=rate,
            burst=Rate(rate.events * NS_PER_SECOND / rate.period_ns * bursts.factor),
            every_ns=bursts.every_ns,
            for_ns=bursts.for_ns,
            key=key_of(self._market.identity, str(VERSION), "bursts"),
        )

    def _new_injector(self) -> Injector | None:
        if self._defects == Defects():
            return None
        pace = self._pace() or Rate(UNPACED_VIRTUAL_RATE)
        return Injector(self._defects, market=self._market, mix=self._mix, pace=pace, symbols=len(self._symbols))

    def _new_timeline(self) -> Timeline:
        pace = self._pace()
        if pace is None or not self._virtual:
            return RealTimeline(
                clock=self._clock,
                closing=self._closed,
                rate=pace,
                most=self._batch_rows,
                linger_ns=int(self._linger_s * NS_PER_SECOND),
            )
        in_skew = (self._rate or Rate(UNPACED_VIRTUAL_RATE)).count(int(self._max_skew_s * NS_PER_SECOND))
        return VirtualTimeline(
            start_ns=self._start_ns,
            rate=pace,
            most=max(1, min(self._batch_rows, in_skew)),
            # Withheld events leave holes in the offsets. Whoever has lost a log can tell by offsets what it has had
            # only if the same batches come again.
            aligned=self._injector is not None,
        )

    # The kind that is further behind decides where to go on; the other one's events are passed over.
    def _first_place(self, done: Mapping[Kind, int]) -> int:
        places = (self._mix.place(kind, self._number(kind, done[kind])) for kind in _KINDS)
        return min(place for place in places if place is not None)

    # Offsets count rows and numbers count events: the same, unless some events are repeated.
    def _offset(self, kind: Kind, number: int) -> int:
        return number if self._injector is None else self._injector.offset(kind, number)

    def _number(self, kind: Kind, offset: int) -> int:
        return offset if self._injector is None else self._injector.number(kind, offset)

    def _fill(self, stretch: Stretch, done: dict[Kind, int]) -> Iterator[SourceBatch]:
        for kind in _KINDS:
            first = self._mix.before(kind, stretch.begin)
            if done[kind] > self._offset(kind, first):
                first = self._number(kind, done[kind])
            end = self._mix.before(kind, stretch.end)
            if first >= end:
                continue
            if self._injector is None:
                data = self._data(kind, first, end, stretch)
            else:
                data = unlogged(kind, *self._injector.columns(kind, first, end, done[kind], stretch))
            done[kind] = self._offset(kind, end)
            if data.num_rows:
                yield SourceBatch(
                    kind=kind,
                    data=data,
                    instruments=self._instruments,
                    source_id=self._sequence(kind),
                    offset=done[kind],
                )

    def _data(self, kind: Kind, first: int, end: int, stretch: Stretch) -> pa.RecordBatch:
        made = self._made.get(kind)
        if made is None or first < made.first or end > made.end:
            made = self._made[kind] = self._make(kind, first, max(end, first + _AHEAD), stretch)
        elif made.ts_event != stretch.ts_event:
            made = self._made[kind] = made.timed(stretch)
        made.received(first, end, self._clock)
        return made.data.slice(first - made.first, end - first)

    def _make(self, kind: Kind, first: int, end: int, stretch: Stretch) -> _Made:
        numbers = np.arange(first, end, dtype=np.int64)
        places = self._mix.places(kind, numbers)
        columns = self._market.quotes(places) if kind is Kind.QUOTES else self._market.trades(places, numbers)
        return _Made(first, end, places, stretch.ts_event, unlogged(kind, end - first, columns)).timed(stretch)


# Events of one kind by number, ``[first, end)``, with the times that `ts_event` gives their places. In real time
# `ts_recv` is memory that rows' receive times are written to as they are given, and never again.
@dataclass(frozen=True, slots=True)
class _Made:
    first: int
    end: int
    places: Ints
    ts_event: Callable[[Ints], Ints]
    data: pa.RecordBatch
    ts_recv: Ints | None = None

    def timed(self, stretch: Stretch) -> _Made:
        ts_event = stretch.ts_event(self.places)
        if stretch.recv_delay_ns is None:
            ts_recv, unwritten = np.zeros_like(ts_event), True
        else:
            ts_recv, unwritten = ts_event + np.int64(stretch.recv_delay_ns), False
        data = _with_times(_with_times(self.data, "ts_event", ts_event), "ts_recv", ts_recv)
        return replace(self, ts_event=stretch.ts_event, data=data, ts_recv=ts_recv if unwritten else None)

    def received(self, first: int, end: int, clock: Clock) -> None:
        if self.ts_recv is not None:
            self.ts_recv[first - self.first : end - self.first] = clock.now_ns()


def _with_times(data: pa.RecordBatch, name: str, times: Ints) -> pa.RecordBatch:
    at = data.schema.get_field_index(name)
    # Over the memory itself, not a copy of it.
    column = pa.Array.from_buffers(pa.int64(), len(times), [None, pa.py_buffer(times)])
    return data.set_column(at, data.schema.field(at), column)


def _named(symbols: Sequence[str] | int) -> tuple[str, ...]:
    if isinstance(symbols, str):
        raise ConfigurationError(f"synthetic source: symbols is the string {symbols!r}; give a list")
    count = symbols if isinstance(symbols, int) else len(symbols)
    if not 1 <= count <= MAX_SYMBOLS:
        raise ConfigurationError(f"synthetic source: {count} symbols; it takes 1 to {MAX_SYMBOLS}")
    if isinstance(symbols, int):
        return tuple(f"SYN{i:04d}" for i in range(symbols))
    named = tuple(symbol.strip().upper() for symbol in symbols)
    if not all(named) or len(set(named)) < count:
        raise ConfigurationError(f"synthetic source: symbols {', '.join(named)} are not all different and named")
    return named


def _is_virtual(time: str) -> bool:
    if time not in ("real", "virtual"):
        raise ConfigurationError(f"synthetic source: time is {time!r}; it is real or virtual")
    return time == "virtual"
