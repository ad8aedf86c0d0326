"""Events one by one: a view over batches for users, and the way back.

The engine works on columns. Whoever wants `async for quote in source.stream()`, or has a source of their own that gives
one value at a time, goes through here; it costs a few microseconds per event.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from heapq import merge
from itertools import repeat
from operator import attrgetter
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from market_data_core.batch import EventBatch, Instrument, SourceBatch, unlogged
from market_data_core.clock import Clock
from market_data_core.errors import ValidationError
from market_data_core.models import Bar, EventMeta, Quote, Trade
from market_data_core.protocols import BatchSource, Gap, Mark
from market_data_core.schemas import Kind, Origin

Event = Quote | Trade | Bar
"""One event as a value."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Shape:
    model: type[Quote | Trade | Bar]
    fields: dict[str, str]  # engine column -> field of the model


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


_SHAPES: Final = {
    Kind.QUOTES: _Shape(
        Quote,
        {"bid_price": "bid", "bid_size": "bid_size", "ask_price": "ask", "ask_size": "ask_size"},
    ),
    Kind.TRADES: _Shape(
        Trade,
        _same("price", "size", "exchange", "conditions", "trade_id", "aggressor_side"),
    ),
    Kind.BARS: _Shape(
        Bar,
        {"interval": "resolution"}
        | _same(
            "what", "session", "source", "open", "high", "low", "close", "volume", "vwap", "trade_count", "revision"
        ),
    ),
}
"""Which column is which field; everything else here follows from it."""


def iter_events(
    batch: EventBatch | SourceBatch, *, origin: Origin | None = None, ts_recv_ns: int = 0
) -> Iterator[Event]:
    """Give the rows of a batch as values, in the batch's order.

    Columns that the value has no field for are not in it (``ts_known`` and ``reason`` of bars), nor are fields that the
    batch has no column for (``last`` and ``volume`` of a quote). A row without what its value cannot do without, such
    as a trade without a price, is left out, and a warning says how many.

    Args:
        batch: Quotes, trades or bars.
        origin: How a `SourceBatch` came to us. It does not say so itself; without, its values carry no `meta`.
        ts_recv_ns: Receive time of rows that were not stamped, UTC nanoseconds since the epoch.

    Raises:
        ValidationError: There is no value for events of this kind.
    """
    shape = _SHAPES.get(batch.kind)
    if shape is None:
        raise ValidationError(f"{batch.kind} have no per-event value; there are: {', '.join(_SHAPES)}")
    data = _complete(_without_nan(batch.data), batch.kind, shape)
    columns = [_values(data.column(c), shape.model.model_fields[f].get_default()) for c, f in shape.fields.items()]
    instruments = _ints(data, "instrument")
    symbols = {i: batch.instruments[i].symbol for i in set(instruments)}
    fields = tuple(shape.fields.values())
    build = shape.model.from_ns
    for ts_event, instrument, meta, *values in zip(
        _ints(data, "ts_event"), instruments, _metas(batch, data, origin, ts_recv_ns), *columns, strict=True
    ):
        yield build(ts_event, symbol=symbols[instrument], meta=meta, **dict(zip(fields, values, strict=True)))


def has_events(kind: Kind) -> bool:
    """Return whether `iter_events` has values for events of a kind."""
    return kind in _SHAPES


async def stream_events(source: BatchSource, clock: Clock) -> AsyncGenerator[Event, None]:
    """Give what a source gives one by one, from its first event on.

    Batches keep their own order. Where a source has batches of several kinds ready that overlap in time, as after one
    stretch of quotes and trades, they are merged by `ts_event`; nothing is held back to wait for more. Marks, gaps and
    kinds without a per-event value are left out.

    Args:
        source: Closed by its owner, not here.
        clock: Stamps events that come without a receive time.

    Raises:
        SourceError: As the source does.
    """
    batches = source.batches({})
    group: list[SourceBatch] = []
    coming = asyncio.create_task(_next(batches), name=f"{source.name}: next batch")
    try:
        while (item := await coming) is not None:
            coming = asyncio.create_task(_next(batches), name=f"{source.name}: next batch")
            if isinstance(item, SourceBatch) and item.kind in _SHAPES and item.data.num_rows:
                group.append(item)
            await asyncio.sleep(0)  # what is ready, comes within one turn of the loop
            if group and not _continues(group, coming):
                for event in _merged(group, source.origin, clock.now_ns()):
                    yield event
                group = []
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)
        if isinstance(batches, AsyncGenerator):
            await batches.aclose()


def to_source_batches(
    events: Iterable[Event], vendor: str, instruments: list[Instrument] | None = None
) -> list[SourceBatch]:
    """Turn values into batches for the engine, one per kind that occurs, each in the order given.

    None becomes null. A quote's `last` and `volume` and the `delayed` of all three have no column and stay behind.
    Receive time and flags come from `meta` where there is one; else they are 0, and capture stamps the time.

    Args:
        events: Quotes, trades and bars in any mix.
        vendor: Whose they are.
        instruments: The source's instruments so far; new symbols are appended. One list serves all calls of one
            source, so that ids keep their meaning. None begins a new one.

    Raises:
        ValidationError: A value is none of the three.
    """
    table = [] if instruments is None else instruments
    places = {i.symbol: n for n, i in enumerate(table)}
    kinds = {shape.model: kind for kind, shape in _SHAPES.items()}
    found: dict[Kind, list[Event]] = {}
    for event in events:
        kind = kinds.get(type(event))
        if kind is None:
            raise ValidationError(f"{type(event).__name__} is no quote, trade or bar")
        if event.symbol not in places:
            places[event.symbol] = len(table)
            table.append(Instrument(vendor=vendor, symbol=event.symbol))
        found.setdefault(kind, []).append(event)
    return [
        SourceBatch(kind=kind, data=unlogged(kind, len(rows), _columns(kind, rows, places)), instruments=table)
        for kind, rows in found.items()
    ]


def _columns(kind: Kind, rows: list[Event], places: dict[str, int]) -> dict[str, object]:
    columns: dict[str, object] = {
        "instrument": [places[e.symbol] for e in rows],
        "ts_event": [e.ts_event_ns for e in rows],
        "ts_recv": [e.meta.ts_recv_ns if e.meta else 0 for e in rows],
        "flags": [int(e.meta.flags) if e.meta else 0 for e in rows],
    }
    for column, field in _SHAPES[kind].fields.items():
        columns[column] = list(map(attrgetter(field), rows))
    return columns


# A source may have let NaN through; what is absent is None in a value.
def _without_nan(data: pa.RecordBatch) -> pa.RecordBatch:
    for at, field in enumerate(data.schema):
        if pa.types.is_floating(field.type):
            column = data.column(at)
            is_nan = pc.is_nan(column)
            if pc.any(is_nan).as_py():
                data = data.set_column(at, field, pc.if_else(is_nan, pa.scalar(None, field.type), column))
    return data


def _complete(data: pa.RecordBatch, kind: Kind, shape: _Shape) -> pa.RecordBatch:
    needed = [c for c, f in shape.fields.items() if shape.model.model_fields[f].is_required()]
    lacking = [c for c in needed if data.column(c).null_count]
    whole = data
    for column in lacking:
        whole = whole.filter(pc.is_valid(whole.column(column)))
    if lacking:
        left_out = data.num_rows - whole.num_rows
        _LOG.warning("%d %s left out of the per-event view: they lack %s", left_out, kind, lacking)
    return whole


# A field with a default that is not None may not be None either: null stands for the default there.
def _values(column: Any, default: Any) -> list[Any]:
    values: list[Any] = column.to_pylist()
    if column.null_count and isinstance(default, (str, int)):
        return [default if value is None else value for value in values]
    return values


def _metas(
    batch: EventBatch | SourceBatch, data: pa.RecordBatch, origin: Origin | None, ts_recv_ns: int
) -> Iterator[EventMeta | None]:
    known = batch.origin if isinstance(batch, EventBatch) else origin
    if known is None:
        yield from repeat(None, data.num_rows)
        return
    instruments = _ints(data, "instrument")
    seqs: Iterable[int | None] = _ints(data, "seq") if isinstance(batch, EventBatch) else repeat(None, data.num_rows)
    vendors = {i: batch.instruments[i].vendor for i in set(instruments)}
    for instrument, ts_recv, seq, flags in zip(
        instruments, _ints(data, "ts_recv"), seqs, _ints(data, "flags"), strict=True
    ):
        yield EventMeta.model_construct(
            vendor=vendors[instrument], ts_recv_ns=ts_recv or ts_recv_ns, seq=seq, flags=flags, origin=known
        )


def _ints(data: pa.RecordBatch, name: str) -> list[int]:
    values: list[int] = data.column(name).to_numpy().tolist()
    return values


def _merged(group: list[SourceBatch], origin: Origin, now_ns: int) -> Iterator[Event]:
    views = [iter_events(batch, origin=origin, ts_recv_ns=now_ns) for batch in group]
    return views[0] if len(views) == 1 else merge(*views, key=attrgetter("ts_event_ns"))


# One batch of a kind at most, which bounds what is gathered. An error waits until what came before it has been given.
def _continues(group: list[SourceBatch], coming: asyncio.Task[SourceBatch | Mark | Gap | None]) -> bool:
    if not coming.done() or coming.cancelled() or coming.exception() is not None:
        return False
    batch = coming.result()
    if not isinstance(batch, SourceBatch) or batch.kind not in _SHAPES or not batch.data.num_rows:
        return False
    if any(member.kind is batch.kind for member in group):
        return False
    latest = max(pc.max(member.data.column("ts_event")).as_py() for member in group)
    return bool(pc.min(batch.data.column("ts_event")).as_py() <= latest)


async def _next(batches: AsyncIterator[SourceBatch | Mark | Gap]) -> SourceBatch | Mark | Gap | None:
    return await anext(batches, None)
