"""Statistics over sliding windows of event time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from market_data_core.batch import EventBatch
from market_data_core.errors import ConfigurationError
from market_data_core.protocols import Mark, Result
from market_data_core.schemas import Kind
from market_data_pipeline.operators import exact
from market_data_pipeline.operators.durations import duration_ns
from market_data_pipeline.operators.named_values import named_values
from market_data_pipeline.operators.panes import Due, Grid, sums
from market_data_pipeline.operators.partials import Events, Floats, Partials
from market_data_pipeline.operators.streams import Ints, segment_starts, time_order
from market_data_pipeline.operators.watermarks import (
    BEFORE_ALL_NS,
    Watermarks,
    by_stream,
    int_column,
    limit,
    trusted,
)
from market_data_pipeline.operators.windows import Windows

_OF_QUOTES: Final = ("return", "volatility", "count")
_OF_TRADES: Final = ("vwap", *_OF_QUOTES, "volume")
# Beyond this a sum of products may be more than any float can hold; no price or size is near it.
_LARGEST = 1e100
# Windows are looked at in portions of so many returns, to bound the memory that takes.
_PORTION = 1 << 20


class Rolling:
    """Statistics of trades, or of quotes' midpoints, over a window that slides along event time.

    For each stream (one instrument as one source gives it) and each time ``t`` that is a whole multiple of `every`
    since the epoch, one row of kind ``analytics`` per statistic, stamped ``t`` and named such as ``vwap_5m``. It is
    over the events in ``(t - window, t]``, ordered by ``(ts_event, seq)``:

    - ``volume``, ``vwap``: sum of sizes; average price weighted by size, none where the volume is 0. Exact, as in
      bars, in the instrument's steps. Trades alone.
    - ``count``: how many events.
    - ``return``: last price by first price, less 1; none before there are two events or where the first price is 0.
    - ``volatility``: standard deviation (``n - 1``) of log returns, between the last prices of those steps of `every`
      that have an event; per step, not annualised. None before there are two returns, or where such a price is not
      above 0. Nothing is filled forward.

    The rows of ``t`` come out at the barrier after the watermark (the largest `ts_event` seen, or a mark) has passed
    ``t`` by more than the allowed lateness; there are none where the window has no event. A source that ends gives the
    rows up to the step of its last event. An event whose step the watermark has passed by so much is late and in no
    window. Events without a usable price, and those flagged as far ahead, are filtered. An event is in flight until no
    further window has it, and absorbed then.

    Args:
        window: Length: a count and one of s, m, h, d; a whole number of steps, at most 10,000.
        statistics: Which, in the order in which rows come out.
        every: Length of a step.
        kind: ``trades``, or ``quotes`` for ``return``, ``volatility`` and ``count`` of midpoints.
        allowed_lateness: How long a step waits for stragglers, in event time; ``0s`` not at all.
        name: Of the node.

    Raises:
        ConfigurationError: A value is not one of these.
    """

    def __init__(
        self,
        *,
        window: str = "5m",
        statistics: Sequence[str] = _OF_TRADES,
        every: str = "1s",
        kind: str = "trades",
        allowed_lateness: str = "0s",
        name: str = "rolling",
    ) -> None:
        offered = {"trades": _OF_TRADES, "quotes": _OF_QUOTES}.get(kind)
        if offered is None:
            raise ConfigurationError(f"{name}: kind {kind!r} is neither trades nor quotes")
        wrong = [s for s in statistics if s not in offered]
        if wrong or not statistics or isinstance(statistics, str) or len(set(statistics)) < len(statistics):
            raise ConfigurationError(
                f"{name}: statistics {statistics!r} of {kind}: give a list of {', '.join(offered)}, each once"
            )
        step_ns = duration_ns(every, where=f"{name} every")
        self._grid = Grid.checked(step_ns, duration_ns(window, where=f"{name} window"), where=name)
        self._panes_of = Windows(step_ns)
        # One more, because a window takes in its end: t is passed when the watermark lies beyond it.
        self._lateness_ns = 1 + duration_ns(allowed_lateness, where=f"{name} allowed_lateness", zero=True)
        self._names = [f"{statistic}_{window}" for statistic in statistics]
        self._statistics = list(statistics)
        self._kind = Kind(kind)
        self._name = name
        self._reset()

    def _reset(self) -> None:
        self._watermarks = Watermarks()
        self._price_scale: Floats = np.empty(0)
        self._size_scale: Floats = np.empty(0)
        self._given: Ints = np.empty(0, np.int64)
        # Of times less 1 ns, so that a pane takes in its end and not its start.
        self._panes = Partials.empty()

    @property
    def name(self) -> str:
        """The node's name."""
        return self._name

    @property
    def kinds(self) -> frozenset[Kind]:
        """Trades, or quotes."""
        return frozenset({self._kind})

    def gives(self, incoming: frozenset[Kind]) -> frozenset[Kind]:
        """Analytics, where something comes in that it works on."""
        return frozenset({Kind.ANALYTICS}) if incoming & self.kinds else frozenset()

    def process(self, batch: EventBatch) -> Result:
        """Take trades or quotes; nothing comes out before the barrier."""
        if not len(batch):
            return Result()
        places = self._watermarks.places(batch)
        self._grow()
        price, size = _values(batch)
        usable = trusted(batch) & (np.abs(price) <= _LARGEST) & (np.abs(size) <= _LARGEST)
        rows = by_stream(places, usable)
        filtered = len(batch) - len(rows)
        if not len(rows):
            return Result(filtered=filtered)
        ts = int_column(batch, "ts_event")[rows]
        before = self._watermarks.before(places[rows], ts)
        in_time = self._grid.starts(ts - 1) > limit(before, self._lateness_ns + self._grid.step_ns)
        late = len(rows) - int(in_time.sum())
        rows = rows[in_time]
        if len(rows):
            events = Events(places[rows], ts[in_time] - 1, int_column(batch, "seq")[rows], price[rows], size[rows])
            events = events.take(time_order(events.ts, segment_starts(events.stream)))
            self._panes = self._panes.merged(Partials.of(events, self._panes_of, self._price_scale, self._size_scale))
        return Result(filtered=filtered, late=late)

    def _grow(self) -> None:
        added = [i for i, _ in self._watermarks.streams.entries[len(self._given) :]]
        if added:
            self._price_scale = np.concatenate([self._price_scale, [_scale(i.price_decimals) for i in added]])
            self._size_scale = np.concatenate([self._size_scale, [_scale(i.size_decimals) for i in added]])
            self._given = np.concatenate([self._given, np.full(len(added), BEFORE_ALL_NS, np.int64)])

    def advance(self, mark: Mark) -> None:
        """Move the watermarks of the mark's source, or take note that it has ended."""
        self._watermarks.advance(mark)

    def barrier(self, end: int, ts_known_ns: int) -> Result:
        """Give the rows of the times that the watermarks have passed."""
        panes, watermarks = self._panes, self._watermarks
        closed = self._grid.closed_until(limit(watermarks.latest, self._lateness_ns))
        for place in watermarks.ended:
            own = panes.start[panes.stream == place]
            if len(own):
                closed[place] = max(int(closed[place]), int(own[-1]) + self._grid.step_ns)
        due = self._grid.due(panes.stream, panes.start, self._given, closed)
        out: list[EventBatch] = []
        if len(due):
            table = np.column_stack([getattr(self, f"_{statistic}")(due) for statistic in self._statistics])
            out = named_values(watermarks, due.stream, due.end, self._names, table, end=end, ts_known_ns=ts_known_ns)
        self._given = np.maximum(self._given, closed)
        spent = self._grid.spent(panes.stream, panes.start, closed)
        if watermarks.ended:
            spent |= np.isin(panes.stream, list(watermarks.ended))
        absorbed = 0
        if spent.any():
            absorbed = int(panes.count[spent].sum())
            self._panes = panes.take(~spent)
        self._forget_ended()
        return Result(out=out, emitted=sum(len(b) for b in out), absorbed=absorbed)

    def _forget_ended(self) -> None:
        moved = self._watermarks.forget_ended()
        if moved is not None:
            stay = moved >= 0
            self._given, self._price_scale = self._given[stay], self._price_scale[stay]
            self._size_scale = self._size_scale[stay]
            self._panes.stream = moved[self._panes.stream]

    # One column each, NaN where there is no value. Named for the statistics.

    def _count(self, due: Due) -> Floats:
        return sums(self._panes.count, due).astype(np.float64)

    def _volume(self, due: Due) -> Floats:
        return exact.ratio(sums(self._panes.volume, due), self._size_scale[due.stream].astype(np.int64))

    def _vwap(self, due: Due) -> Floats:
        scale = self._price_scale[due.stream].astype(np.int64)
        return exact.ratio(sums(self._panes.value, due), exact.products(sums(self._panes.volume, due), scale))

    def _return(self, due: Due) -> Floats:
        first, last = self._panes.open[due.first], self._panes.close[due.last]
        with np.errstate(all="ignore"):
            found = last / first - 1
        return np.where((self._count(due) > 1) & np.isfinite(found), found, np.nan)

    def _volatility(self, due: Due) -> Floats:
        # Arrow takes one value at a time. NumPy takes several at once where it can, with other last digits for a value
        # among others. What is not above 0 has no logarithm, and no window with it has a value.
        logs = pc.ln(pa.array(self._panes.close)).to_numpy(zero_copy_only=False)
        with np.errstate(invalid="ignore"):
            returns = np.diff(logs, prepend=np.nan)
        result = np.full(len(due), np.nan)
        counts = due.last - due.first
        wanted = np.flatnonzero(counts > 1)
        portions = np.cumsum(counts[wanted]) // _PORTION
        for rows in np.split(wanted, np.flatnonzero(np.diff(portions)) + 1):
            if len(rows):
                result[rows] = _deviation(returns, due.first[rows] + 1, counts[rows])
        return result

    def in_flight(self) -> int:
        """Return the number of events that a further window may have."""
        return int(self._panes.count.sum())

    def snapshot(self) -> dict[str, Any]:
        """Return panes and watermarks; sums may be integers of any size."""
        return {
            "watermarks": self._watermarks.snapshot(),
            "given": self._given.tolist(),
            "panes": self._panes.snapshot(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `snapshot` gave."""
        self._reset()
        self._watermarks = Watermarks.restored(state["watermarks"])
        self._grow()
        self._given = np.array(state["given"], np.int64)
        self._panes = Partials.restored(state["panes"])


def _values(batch: EventBatch) -> tuple[Floats, Floats]:
    # Price and size of every row, NaN where there is no price.
    if batch.kind is Kind.TRADES:
        price, size = batch.floats("price"), batch.floats("size")
        return price, np.where(np.isnan(size), 0.0, size)
    with np.errstate(invalid="ignore"):  # infinities of both signs have no middle, and are not usable anyway
        # Halves first: the sum of two large prices may be no float.
        middle = batch.floats("bid_price") / 2 + batch.floats("ask_price") / 2
    return middle, np.zeros(len(batch))


def _deviation(values: Floats, first: Ints, counts: Ints) -> Floats:
    # Of runs of values, two passes over each by itself, so that no other run changes a digit.
    at = np.cumsum(counts) - counts
    run: npt.NDArray[np.float64] = values[np.arange(int(counts.sum())) + np.repeat(first - at, counts)]
    with np.errstate(invalid="ignore"):
        mean = np.add.reduceat(run, at) / counts
        squares = (run - np.repeat(mean, counts)) ** 2
        found: Floats = np.sqrt(np.add.reduceat(squares, at) / (counts - 1))
    return np.where(np.isfinite(found), found, np.nan)


def _scale(decimals: int) -> float:
    # Finer steps than 10**-18 leave int64, and no float close to 1 has as many digits.
    return float(10.0 ** min(max(decimals, 0), 18))
