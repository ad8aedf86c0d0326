"""Historical bars: how they are asked for and read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Final

from market_data_core.clock import NS_PER_SECOND, Clock
from market_data_core.errors import ConfigurationError, PacingViolation, ProviderError
from market_data_core.models import Bar, EventMeta, utc_from_ns
from market_data_core.schemas import Flag, Origin, interval_ns
from market_data_ibkr.codes import IDENTICAL_WAIT_S, is_no_data
from market_data_ibkr.contracts import Contract
from market_data_ibkr.lines import VENDOR
from market_data_ibkr.pacing import HistoryPace
from market_data_ibkr.session import Session
from market_data_ibkr.wire import needed, number

_DAY_S: Final = 86_400
# By length in seconds: what the gateway calls it, and how many seconds of it one request may ask for.
_SIZES: Final = {
    1: ("1 secs", 1_800),
    5: ("5 secs", 3_600),
    10: ("10 secs", 14_400),
    15: ("15 secs", 14_400),
    30: ("30 secs", 28_800),
    60: ("1 min", _DAY_S),
    120: ("2 mins", 2 * _DAY_S),
    180: ("3 mins", 7 * _DAY_S),
    300: ("5 mins", 7 * _DAY_S),
    600: ("10 mins", 7 * _DAY_S),
    900: ("15 mins", 7 * _DAY_S),
    1_200: ("20 mins", 7 * _DAY_S),
    1_800: ("30 mins", 28 * _DAY_S),
    3_600: ("1 hour", 28 * _DAY_S),
    7_200: ("2 hours", 28 * _DAY_S),
    10_800: ("3 hours", 28 * _DAY_S),
    14_400: ("4 hours", 28 * _DAY_S),
    28_800: ("8 hours", 28 * _DAY_S),
    _DAY_S: ("1 day", 364 * _DAY_S),
}
_PER_BAR: Final = 8
_AT_ONCE: Final = 50


class History:
    """Asks for bars within the gateway's budget.

    Args:
        session: Carries the requests.
        clock: Tells the time and waits.
        max_wait_s: How long a request may wait for the budget.
        timeout_s: How long one answer may take.
    """

    def __init__(self, *, session: Session, clock: Clock, max_wait_s: float, timeout_s: float) -> None:
        self._session = session
        self._clock = clock
        self._timeout_s = timeout_s
        self._pace = HistoryPace(clock=clock, max_wait_s=max_wait_s)
        self.bad_bars = 0

    async def bars(
        self, symbol: str, contract: Contract, resolution: str, *, start_ns: int, end_ns: int, what: str
    ) -> list[Bar]:
        """Return bars with start in ``[start_ns, end_ns)``, ascending, each once.

        Raises:
            ConfigurationError: The gateway has no bars of that length.
            PacingViolation: The budget is spent for longer than may be waited, or the gateway says so.
            ProviderError: The gateway refused.
            TemporaryUnavailable: No answer in time.
        """
        length_s = interval_ns(resolution) // NS_PER_SECOND
        if length_s not in _SIZES:
            raise ConfigurationError(f"bars of {resolution} cannot be asked for; of these seconds: {sorted(_SIZES)}")
        size, most_s = _SIZES[length_s]
        found: dict[int, Bar] = {}
        for from_s, to_s in _pieces(start_ns, end_ns, most_s):
            for fields in await self._piece(contract, size, from_s, to_s, what):
                for count, bar in enumerate(self._read(symbol, resolution, what, fields)):
                    if start_ns <= bar.ts_event_ns < end_ns:
                        found[bar.ts_event_ns] = bar
                    if count % _AT_ONCE == 0:
                        await asyncio.sleep(0)  # live ticks come over the same loop
        return [found[ts] for ts in sorted(found)]

    async def _piece(self, contract: Contract, size: str, from_s: int, to_s: int, what: str) -> list[list[str]]:
        span_s = to_s - from_s
        duration = f"{span_s} S" if span_s <= _DAY_S else f"{-(-span_s // _DAY_S)} D"
        end = datetime.fromtimestamp(to_s, UTC).strftime("%Y%m%d-%H:%M:%S")
        # No expired contracts, all hours, times as seconds since the epoch, not kept up to date.
        asked = (*contract.fields, 0, end, size, duration, 0, what, 2, 0, "")
        await self._pace.turn(contract=(contract, what), request=asked, cost=2 if what == "BID_ASK" else 1)
        where = f"{size} bars of {contract.symbol} to {end}"
        try:
            return await self._session.ask(
                where,
                lambda number: (20, number, *asked),
                is_last=lambda fields: fields[0] == "17",
                timeout_s=self._timeout_s,
                cancel=(25, 1),
            )
        except PacingViolation:
            self._pace.bar(IDENTICAL_WAIT_S)
            raise
        except ProviderError as exc:
            if exc.code == "IBKR_162" and is_no_data(162, exc.message):
                return []
            raise

    # 17,id,start,end,n,(date,open,high,low,close,volume,wap,count)*
    def _read(self, symbol: str, resolution: str, what: str, fields: list[str]) -> Iterator[Bar]:
        ts_recv_ns = self._clock.now_ns()
        count = int(fields[4])
        rows = fields[5:]
        if len(rows) != count * _PER_BAR:
            raise ProviderError(f"{resolution} bars of {symbol}: {count} announced, {len(rows)} fields came")
        for at in range(0, len(rows), _PER_BAR):
            try:
                yield read_bar(
                    rows[at : at + _PER_BAR],
                    symbol=symbol,
                    resolution=resolution,
                    what=what,
                    ts_recv_ns=ts_recv_ns,
                    origin=Origin.BACKFILL,
                )
            except ValueError:
                self.bad_bars += 1  # the others are as good as they were


def read_bar(row: list[str], *, symbol: str, resolution: str, what: str, ts_recv_ns: int, origin: Origin) -> Bar:
    """Return one bar of date, open, high, low, close, volume, average price and count.

    One whose low lies above its open is given and flagged as suspicious.

    Raises:
        ValueError: A field cannot be read.
    """
    opened, high, low, close = (needed(text) for text in row[1:5])
    volume, vwap, count = (number(text) for text in row[5:8])
    is_sound = low <= min(opened, close) and high >= max(opened, close)
    return Bar.from_ns(
        _start_ns(row[0]),
        symbol=symbol,
        open=opened,
        high=high,
        low=low,
        close=close,
        volume=None if volume is None or volume < 0 else volume,
        vwap=None if vwap is None or vwap <= 0 else vwap,
        trade_count=None if count is None or count < 0 else int(count),
        resolution=resolution,
        what=what,
        source="external",
        meta=EventMeta(
            vendor=VENDOR, ts_recv_ns=ts_recv_ns, flags=0 if is_sound else int(Flag.SUSPICIOUS), origin=origin
        ),
    )


# Daily bars are dates whatever is asked for; theirs is the midnight in UTC that begins that date.
def _start_ns(text: str) -> int:
    if len(text) == 8:
        day = datetime.strptime(text, "%Y%m%d").replace(tzinfo=UTC)
        return int(day.timestamp()) * NS_PER_SECOND
    return int(text) * NS_PER_SECOND


def _pieces(start_ns: int, end_ns: int, most_s: int) -> Iterator[tuple[int, int]]:
    at_s, end_s = start_ns // NS_PER_SECOND, -(-end_ns // NS_PER_SECOND)
    while at_s < end_s:
        to_s = min(at_s + most_s, end_s)
        yield at_s, to_s
        at_s = to_s


class Gatherer:
    """Makes longer bars of the five-second ones that come live.

    A bar is given when the first part of a later one comes: the gateway says of none that it was the last.

    Args:
        symbol: Whose bars.
        resolution: Their length, a multiple of five seconds.
        give: Takes the bars that are complete.
        now_ns: Tells the time.

    Raises:
        ConfigurationError: The length is no multiple of five seconds.
    """

    def __init__(self, *, symbol: str, resolution: str, give: Callable[[Bar], None], now_ns: Callable[[], int]) -> None:
        self._symbol = symbol
        self._resolution = resolution
        self._length_ns = interval_ns(resolution)
        if self._length_ns % (5 * NS_PER_SECOND):
            raise ConfigurationError(f"live bars of {resolution}: the length has to be a multiple of 5s")
        self._give = give
        self._now_ns = now_ns
        self._held: list[Bar] = []

    def take(self, fields: list[str]) -> None:
        """Take a bar as it came: ``50,3,id,time,open,high,low,close,volume,wap,count``.

        Raises:
            ValueError, IndexError: It cannot be read.
        """
        part = read_bar(
            fields[3:11],
            symbol=self._symbol,
            resolution="5s",
            what="TRADES",
            ts_recv_ns=self._now_ns(),
            origin=Origin.LIVE,
        )
        if self._length_ns == 5 * NS_PER_SECOND:
            self._give(part)
            return
        if self._held and self._start_ns(part) != self._start_ns(self._held[0]):
            self._give(self._whole())
            self._held = []
        self._held.append(part)

    def _start_ns(self, bar: Bar) -> int:
        return bar.ts_event_ns - bar.ts_event_ns % self._length_ns

    def _whole(self) -> Bar:
        held = self._held
        volume = sum(bar.volume or 0.0 for bar in held)
        weighted = sum((bar.vwap or 0.0) * (bar.volume or 0.0) for bar in held)
        start_ns = self._start_ns(held[0])
        return held[-1].model_copy(
            update={
                "ts_event_ns": start_ns,
                "ts": utc_from_ns(start_ns),
                "open": held[0].open,
                "high": max(bar.high for bar in held),
                "low": min(bar.low for bar in held),
                "volume": volume,
                "vwap": weighted / volume if volume else None,
                "trade_count": sum(bar.trade_count or 0 for bar in held),
                "resolution": self._resolution,
            }
        )
