"""Batches of events: what sources hand in, what flows, what taps and sinks are given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from market_data_core.errors import SchemaValidationError
from market_data_core.schemas import EVENT_SCHEMAS, TABLE_SCHEMAS, UNLOGGED_SCHEMAS, Kind, Origin

N = TypeVar("N", bound=np.generic)
_Names = tuple[pa.Array, pa.Array]

DEFAULT_DECIMALS = 8
"""Digits after the point that sums keep where a source does not say what its instrument's steps are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instrument:
    """One instrument as the log knows it.

    Attributes:
        vendor: Who the data comes from; the same symbol of two vendors is two instruments.
        symbol: Upper-cased.
        price_decimals: Digits after the point of its prices.
        size_decimals: Digits after the point of its sizes. Sums are kept in integers of these steps.
    """

    vendor: str
    symbol: str
    price_decimals: int = DEFAULT_DECIMALS
    size_decimals: int = DEFAULT_DECIMALS


class Instruments:
    """The instruments of one log; an id is a place in this table and never changes its meaning.

    Appending is the log's alone; everybody else reads. Safe to read while it grows.
    """

    def __init__(self, entries: Sequence[Instrument] = ()) -> None:
        self._entries: list[Instrument] = []
        self._ids: dict[tuple[str, str], int] = {}
        # As text and as dictionaries.
        self._names: tuple[_Names, _Names] | None = None
        for entry in entries:
            self.add(entry)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, instrument_id: int) -> Instrument:
        return self._entries[instrument_id]

    def __iter__(self) -> Iterator[Instrument]:
        return iter(tuple(self._entries))

    def find(self, vendor: str, symbol: str) -> int | None:
        """Return the id of an instrument, or None if the log has never seen it."""
        return self._ids.get((vendor, symbol))

    def add(self, entry: Instrument) -> int:
        """Return the id of `entry`, giving it the next one if it is new."""
        key = (entry.vendor, entry.symbol)
        known = self._ids.get(key)
        if known is not None:
            return known
        self._entries.append(entry)
        self._ids[key] = len(self._entries) - 1
        return len(self._entries) - 1

    def names(self, *, coded: bool = False) -> tuple[pa.Array, pa.Array]:
        """Return (vendors, symbols), arrays indexed by id: of text, or coded, as dictionaries without repetition."""
        made = self._names
        if made is None or len(made[0][0]) != len(self._entries):
            entries = tuple(self._entries)  # of one moment
            vendors = pa.array([e.vendor for e in entries], pa.string())
            symbols = pa.array([e.symbol for e in entries], pa.string())
            made = self._names = (vendors, symbols), (vendors.dictionary_encode(), symbols.dictionary_encode())
        return made[1] if coded else made[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceBatch:
    """Events as a source hands them in, before the log has numbered them.

    Attributes:
        kind: What the rows are.
        data: Columns of ``UNLOGGED_SCHEMAS[kind]``; ``instrument`` is a place in `instruments`.
            Order is the source's own. ``ts_recv`` 0 means: stamp on arrival.
        instruments: The source's own instruments. May grow from batch to batch, never change.
        source_id: Names a sequence of events that the source can repeat from any offset: ``file:<sha256>...``,
            ``synthetic:<seed>``. Empty for a live feed, which cannot.
        offset: Exclusive end of this batch in that sequence, in events.
    """

    kind: Kind
    data: pa.RecordBatch
    instruments: Sequence[Instrument]
    source_id: str = ""
    offset: int = 0

    def __post_init__(self) -> None:
        if not self.data.schema.equals(UNLOGGED_SCHEMAS[self.kind]):
            raise SchemaValidationError(
                f"batch of {self.kind} from {self.source_id or 'live source'} has columns {self.data.schema.names} "
                f"of types {[str(t) for t in self.data.schema.types]}; declared: {UNLOGGED_SCHEMAS[self.kind]}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class EventBatch:
    """Events of one kind with their sequence numbers.

    Attributes:
        kind: What the rows are.
        data: Columns of ``EVENT_SCHEMAS[kind]``, ascending ``seq``.
        instruments: What the ``instrument`` ids mean.
        origin: How the events came to us; one per batch.
        source_id: As in `SourceBatch`.
        offset: Exclusive end in that sequence.
    """

    kind: Kind
    data: pa.RecordBatch
    instruments: Instruments = field(repr=False)
    origin: Origin
    source_id: str = ""
    offset: int = 0

    def __len__(self) -> int:
        return int(self.data.num_rows)

    def column(self, name: str) -> npt.NDArray[np.generic]:
        """Return a numeric column without nulls as a NumPy view of the batch's own memory."""
        values: npt.NDArray[np.generic] = self.data.column(name).to_numpy(zero_copy_only=True)
        return values

    def floats(self, name: str) -> npt.NDArray[np.float64]:
        """Return a float column with NaN where it is null; a view where nothing is null."""
        values: npt.NDArray[np.float64] = self.data.column(name).to_numpy(zero_copy_only=False)
        return values

    def filter(self, keep: npt.NDArray[np.bool_]) -> EventBatch:
        """Return the rows where `keep` is true; the batch itself where that is all of them."""
        if keep.all():
            return self
        return self.with_data(self.data.filter(pa.array(keep)))

    def with_data(self, data: pa.RecordBatch) -> EventBatch:
        """Return the same batch with other rows."""
        return EventBatch(
            kind=self.kind,
            data=data,
            instruments=self.instruments,
            origin=self.origin,
            source_id=self.source_id,
            offset=self.offset,
        )

    def with_flags(self, flags: npt.NDArray[np.int32]) -> EventBatch:
        """Return the batch with another flags column."""
        at = self.data.schema.get_field_index("flags")
        return self.with_data(self.data.set_column(at, self.data.schema.field(at), pa.array(flags, pa.int32())))

    def to_table(self) -> pa.Table:
        """Return the rows as users and stores see them, in ``TABLE_SCHEMAS[kind]``, same order."""
        return to_table([self])


def to_table(batches: Sequence[EventBatch], *, coded: bool = False) -> pa.Table:
    """Return the rows of batches as users and stores see them, in ``TABLE_SCHEMAS[kind]``, same order.

    Args:
        batches: One at least, all of one kind.
        coded: Give vendor, symbol and origin as dictionaries with int32 indices, which cost a fraction, if all batches
            have the same table of instruments.
    """
    runs = [list(run) for _, run in groupby(batches, lambda batch: id(batch.instruments))]
    if len(runs) > 1:
        return pa.concat_tables([_to_table(run, coded=False) for run in runs])
    return _to_table(batches, coded=coded)


def _to_table(batches: Sequence[EventBatch], *, coded: bool) -> pa.Table:
    data = pa.Table.from_batches([batch.data for batch in batches])
    ids = data.column("instrument").combine_chunks()
    vendors, symbols = batches[0].instruments.names(coded=coded)
    origins = list(dict.fromkeys(batch.origin for batch in batches))
    codes = np.array([origins.index(batch.origin) for batch in batches], np.int32)
    origin = pa.DictionaryArray.from_arrays(
        pa.array(np.repeat(codes, [len(batch) for batch in batches])), pa.array(map(str, origins), pa.string())
    )
    columns: dict[str, pa.Array] = {
        "vendor": vendors.take(ids),
        "symbol": symbols.take(ids),
        "origin": origin if coded else origin.dictionary_decode(),
    }
    schema = TABLE_SCHEMAS[batches[0].kind]
    return pa.Table.from_arrays(
        [columns[n] if n in columns else data.column(n) for n in schema.names],
        schema=pa.schema([f.with_type(columns[f.name].type) if f.name in columns else f for f in schema]),
    )


def plain_values(column: pa.Array, dtype: type[N]) -> npt.NDArray[N]:
    """Return the values of a column of fixed width that has rows and no nulls, as they lie in memory.

    Unlike `to_numpy`, never lets go of the interpreter: for every such moment whoever waits for it is woken, which
    costs all threads more than a small batch does.
    """
    return np.frombuffer(column.buffers()[1], dtype, len(column), column.offset * np.dtype(dtype).itemsize)


def unlogged(kind: Kind, rows: int, columns: Mapping[str, object]) -> pa.RecordBatch:
    """Build the data of a `SourceBatch`: given columns in declared types, absent ones null (flags and times 0).

    Args:
        kind: What the rows are.
        rows: How many.
        columns: By name; Arrow arrays, NumPy arrays or lists. NaN in a float column stays NaN: validation decides.

    Raises:
        SchemaValidationError: A column is unknown to the kind, or its values do not fit the declared type.
    """
    schema = UNLOGGED_SCHEMAS[kind]
    unknown = set(columns) - set(schema.names)
    if unknown:
        raise SchemaValidationError(f"{kind} have no column {', '.join(sorted(unknown))}")
    arrays: list[pa.Array] = []
    for f in schema:
        value = columns.get(f.name)
        try:
            if value is None:
                fill = pa.array(np.zeros(rows, f.type.to_pandas_dtype()), f.type) if not f.nullable else None
                arrays.append(pa.nulls(rows, f.type) if fill is None else fill)
            elif isinstance(value, pa.Array):
                arrays.append(value if value.type == f.type else value.cast(f.type))
            else:
                arrays.append(pa.array(value, f.type))
        except (pa.ArrowInvalid, pa.ArrowTypeError) as exc:
            raise SchemaValidationError(f"column {f.name} of {kind} does not fit {f.type}: {exc}") from exc
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def empty_events(kind: Kind) -> pa.RecordBatch:
    """Return a batch of no rows in ``EVENT_SCHEMAS[kind]``."""
    return pa.RecordBatch.from_pylist([], schema=EVENT_SCHEMAS[kind])
