"""From parsed columns to events: times, symbols, scales, and rows whose values cannot be represented."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from market_data_core.batch import Instrument, unlogged
from market_data_core.schemas import KIND_FIELDS, Flag, Kind
from market_data_pipeline.source.replay.blocks import BadRow, Block
from market_data_pipeline.source.replay.files import Part
from market_data_pipeline.source.replay.times import Bools, Int64s, TimeUnit, Zone, counts_to_utc, iso_to_utc, zone

Floats = npt.NDArray[np.float64]
Int32s = npt.NDArray[np.int32]

NO_TIME: Final = -(2**63)
"""The place in time of rows before a part's first event."""

UNKNOWN_SYMBOL: Final = "?"
"""The symbol of quarantined rows of files that say the symbol row by row."""

_INT32_MAX: Final = 2**31 - 1
_SIDES: Final = (("bid_price", "bid_size"), ("ask_price", "ask_size"))


class InstrumentTable:
    """The instruments of one replay: a place in it never changes its meaning. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ids: dict[tuple[str, str], int] = {}
        self._entries: tuple[Instrument, ...] = ()

    @property
    def entries(self) -> Sequence[Instrument]:
        """What is known so far."""
        return self._entries

    def add(self, entry: Instrument) -> int:
        """Return the place of an instrument, giving it the next one if it is new."""
        with self._lock:
            place = self._ids.setdefault((entry.vendor, entry.symbol), len(self._entries))
            if place == len(self._entries):
                self._entries = (*self._entries, entry)
            return place


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Some rows of a part as events, in order.

    Attributes:
        rows: How many, with bad and unwanted ones.
        places: For each event its place among them; ascending.
        ts_event: UTC nanoseconds.
        instrument: Places in the `InstrumentTable`.
        flags: Bits of `Flag`.
        floats: The kind's float columns; NaN where there is nothing.
        texts: The kind's other columns.
        bad: Rows that are no event; ascending.
        order: For every row a time: its own, or that of the row before it if it has none; `NO_TIME` before the first.
    """

    rows: int
    places: Int64s
    ts_event: Int64s
    instrument: Int32s
    flags: Int32s
    floats: dict[str, Floats]
    texts: dict[str, pa.Array]
    bad: Sequence[BadRow]
    order: Int64s

    def to_batch(self, kind: Kind) -> pa.RecordBatch:
        """Return the events in ``UNLOGGED_SCHEMAS[kind]``; `ts_recv` is 0, for it is stamped on arrival."""
        nullable = {name: pa.array(values, from_pandas=True) for name, values in self.floats.items()}
        columns = {"instrument": self.instrument, "ts_event": self.ts_event, "flags": self.flags}
        return unlogged(kind, len(self.places), {**columns, **nullable, **self.texts})


def sort_by_time(blocks: Sequence[Rows]) -> Rows:
    """Return the rows of several blocks as one, stably sorted by time; a bad row stays behind the event before it."""
    starts = np.cumsum([0, *(b.rows for b in blocks)])
    orders, latest = [], NO_TIME
    for block in blocks:
        orders.append(np.where(block.order == NO_TIME, latest, block.order))
        latest = int(orders[-1][-1])
    whole = Rows(
        rows=int(starts[-1]),
        places=np.concatenate([b.places + s for b, s in zip(blocks, starts, strict=False)]),
        ts_event=np.concatenate([b.ts_event for b in blocks]),
        instrument=np.concatenate([b.instrument for b in blocks]),
        flags=np.concatenate([b.flags for b in blocks]),
        floats={n: np.concatenate([b.floats[n] for b in blocks]) for n in blocks[0].floats},
        texts={n: pa.concat_arrays([b.texts[n] for b in blocks]) for n in blocks[0].texts},
        bad=[replace(r, row=r.row + int(s)) for b, s in zip(blocks, starts, strict=False) for r in b.bad],
        order=np.concatenate(orders),
    )
    new_place = np.empty(whole.rows, np.int64)
    sorted_rows = np.argsort(whole.order, kind="stable")
    new_place[sorted_rows] = np.arange(whole.rows)
    places = new_place[whole.places]
    at = np.argsort(places)
    return Rows(
        rows=whole.rows,
        places=places[at],
        ts_event=whole.ts_event[at],
        instrument=whole.instrument[at],
        flags=whole.flags[at],
        floats={n: v[at] for n, v in whole.floats.items()},
        texts={n: v.take(pa.array(at)) for n, v in whole.texts.items()},
        bad=sorted((replace(r, row=int(new_place[r.row])) for r in whole.bad), key=lambda r: r.row),
        order=whole.order[sorted_rows],
    )


# Why rows are no events: the first reason a row gets is the one it keeps.
@dataclass(slots=True)
class _Refused:
    rows: int
    reasons: dict[int, str] = field(default_factory=dict)

    def where(self, wrong: Bools, reason: str) -> None:
        for i in np.flatnonzero(wrong).tolist():
            self.reasons.setdefault(i, reason)

    def good(self) -> Int64s | None:
        if not self.reasons:
            return None
        keep = np.ones(self.rows, np.bool_)
        keep[list(self.reasons)] = False
        return np.flatnonzero(keep)


class Converter:
    """Turns blocks of one part into events.

    Args:
        part: The part.
        instruments: Where its instruments are entered.
        symbols: Only these, upper-cased; None for all.
    """

    def __init__(self, part: Part, instruments: InstrumentTable, symbols: Collection[str] | None) -> None:
        self._part = part
        self._layout = part.layout
        self._instruments = instruments
        self._symbols = symbols
        self._unit = part.layout.time.unit
        named = part.layout.time.zone
        iso = self._unit is TimeUnit.ISO8601
        self._zone: Zone | None = zone(named) if named else None if iso else zone("UTC")
        self._numeric = {f.name for f in KIND_FIELDS[part.layout.kind] if pa.types.is_float64(f.type)}
        # By text as it stands in the file, so upper-casing and look-ups happen once per text and not once per row.
        self._ids: dict[tuple[str, str], int] = {}
        self.seen: dict[str, dict[str, None]] = {}
        """By vendor, its wanted symbols in the order they came; a vendor without any is there too."""

    def convert(self, block: Block) -> Rows:
        """Return the rows of a block as events and bad rows; rows of unwanted symbols are in neither."""
        table = block.table.combine_chunks()
        refused = _Refused(table.num_rows)
        columns = {n: _only_chunk(table.column(n)) for n in table.column_names}
        ts_event = self._times(columns["time"], refused)
        floats = {n: self._floats(n, columns[n], refused) for n in columns if n in self._numeric}
        flags = self._flags(columns, refused, table.num_rows)
        named = self._named(columns, refused, table.num_rows)
        texts = {n: a for n, a in columns.items() if n in self._layout.columns and n not in floats and n != "flags"}
        keep = refused.good()
        order = _order(block, ts_event, keep)
        instrument, wanted = self._instrument(named, keep, table.num_rows)
        bad = self._bad(block, refused)
        if wanted is not None:
            keep = wanted
        every = slice(None) if keep is None else keep
        return Rows(
            rows=block.rows,
            places=block.places[every],
            ts_event=ts_event[every],
            instrument=instrument,
            flags=flags[every],
            floats={n: v[every] for n, v in floats.items()},
            texts=texts if keep is None else {n: a.take(pa.array(keep)) for n, a in texts.items()},
            bad=bad,
            order=order,
        )

    def instrument_of_bad_rows(self) -> int:
        """Return the instrument that quarantined rows are entered under."""
        return self._enter(self._layout.vendor, self._part.symbol or UNKNOWN_SYMBOL)

    def _enter(self, vendor: str, symbol: str) -> int:
        return self._instruments.add(
            Instrument(
                vendor=vendor,
                symbol=symbol,
                price_decimals=self._layout.price_decimals,
                size_decimals=self._layout.size_decimals,
            )
        )

    def _times(self, column: pa.Array, refused: _Refused) -> Int64s:
        refused.where(_nulls(column), "time is missing")
        if self._unit is TimeUnit.ISO8601:
            times, valid, placeless = iso_to_utc(column, zone=self._zone)
            refused.where(~valid, "time is not ISO 8601, or outside the years 1678 to 2261")
            refused.where(placeless, "time has no zone, and the layout names none")
            return times
        counts = column.fill_null(0).to_numpy(zero_copy_only=False)
        midnight = self._part.midnight if self._unit.since_midnight else 0
        times, fits = counts_to_utc(counts, unit=self._unit, zone=self._zone or zone("UTC"), midnight=midnight or 0)
        refused.where(~fits, "time is outside the years 1678 to 2261")
        return times

    def _floats(self, name: str, column: pa.Array, refused: _Refused) -> Floats:
        values: Floats = column.to_numpy(zero_copy_only=False)
        missing = _nulls(column) if column.null_count else None
        finite = np.isfinite(values)
        if not finite.all():
            refused.where(~finite if missing is None else ~finite & ~missing, f"{name} is not a finite number")
        if missing is not None and self._layout.kind is Kind.TRADES:
            refused.where(missing, f"{name} is missing")
        scale = self._layout.price_scale if name.endswith("price") else self._layout.size_scale
        return values / 10.0**scale if scale else values

    def _flags(self, columns: dict[str, pa.Array], refused: _Refused, rows: int) -> Int32s:
        flags = np.zeros(rows, np.int32)
        if "flags" in columns:
            given = columns["flags"].fill_null(0).to_numpy(zero_copy_only=False)
            odd = (given < 0) | (given > _INT32_MAX)
            refused.where(odd, "flags are outside 0 to 2147483647")
            flags = np.where(odd, 0, given).astype(np.int32)
        if "suspicious" in columns:
            doubted = columns["suspicious"].fill_null(0).to_numpy(zero_copy_only=False) != 0
            flags |= np.where(doubted, np.int32(Flag.SUSPICIOUS), np.int32(0))
        return flags

    # Vendor and symbol as codes into the distinct texts; None if the path says the symbol and nothing the vendor.
    def _named(
        self, columns: dict[str, pa.Array], refused: _Refused, rows: int
    ) -> tuple[Int64s, list[tuple[str, str]]] | None:
        if "symbol" not in columns and "vendor" not in columns:
            return None
        vendors, vendor_codes = _coded(columns.get("vendor"), self._layout.vendor, rows)
        symbols, symbol_codes = _coded(columns.get("symbol"), self._part.symbol or "", rows)
        refused.where(np.array([not s.strip() for s in symbols], np.bool_)[symbol_codes], "symbol is missing")
        codes = vendor_codes * len(symbols) + symbol_codes
        pairs = [(v or self._layout.vendor, s.strip().upper()) for v in vendors for s in symbols]
        return codes, pairs

    # The instrument of every event that stays, and which stay if the filter leaves any out.
    def _instrument(
        self, named: tuple[Int64s, list[tuple[str, str]]] | None, keep: Int64s | None, rows: int
    ) -> tuple[Int32s, Int64s | None]:
        if named is None:
            count = rows if keep is None else len(keep)
            symbol = self._part.symbol or UNKNOWN_SYMBOL
            place = self._known((self._layout.vendor, symbol)) if count else 0
            return np.full(count, place, np.int32), None
        codes, pairs = named
        codes = codes if keep is None else codes[keep]
        present = np.flatnonzero(np.bincount(codes, minlength=len(pairs))).tolist()
        new = [code for code in present if pairs[code] not in self._ids]
        for code in sorted(new, key=lambda code: int(np.argmax(codes == code))):
            self._known(pairs[code])
        places = np.full(len(pairs), -1, np.int32)
        places[present] = [self._ids[pairs[code]] for code in present]
        found = places[codes]
        if (found >= 0).all():
            return found, None
        stay = np.flatnonzero(found >= 0)
        return found[stay], stay if keep is None else keep[stay]

    def _known(self, pair: tuple[str, str]) -> int:
        if pair not in self._ids:
            vendor, symbol = pair
            of_vendor = self.seen.setdefault(vendor, {})
            wanted = self._symbols is None or symbol in self._symbols
            if wanted:
                of_vendor[symbol] = None
            self._ids[pair] = self._enter(vendor, symbol) if wanted else -1
        return self._ids[pair]

    def _bad(self, block: Block, refused: _Refused) -> Sequence[BadRow]:
        if not refused.reasons:
            return block.bad
        found = list(block.bad)
        for i, reason in refused.reasons.items():
            row = int(block.places[i])
            line, raw = block.describe(row)
            found.append(BadRow(row=row, line=line, reason=reason, raw=raw))
        return sorted(found, key=lambda r: r.row)


def _order(block: Block, ts_event: Int64s, keep: Int64s | None) -> Int64s:
    if keep is None and len(ts_event) == block.rows:
        return ts_event
    every = slice(None) if keep is None else keep
    last = np.zeros(block.rows, np.int64)
    last[block.places[every]] = np.arange(1, len(ts_event[every]) + 1)
    return np.concatenate(([NO_TIME], ts_event[every]))[np.maximum.accumulate(last)]


def _only_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.array([], column.type)


def _nulls(column: pa.Array) -> Bools:
    result: Bools = column.is_null().to_numpy(zero_copy_only=False)
    return result


def _coded(column: pa.Array | None, constant: str, rows: int) -> tuple[list[str], Int64s]:
    if column is None:
        return [constant], np.zeros(rows, np.int64)
    coded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    names = [name or "" for name in coded.dictionary.to_pylist()]
    codes = pc.fill_null(coded.indices, len(names)).to_numpy(zero_copy_only=False).astype(np.int64)
    return [*names, ""], codes


@dataclass(slots=True)
class TopOfBook:
    """The side that a one-sided quote row does not carry, remembered from the row that did.

    Attributes:
        last: Price and size of the bid, then of the ask; NaN while never seen.
    """

    last: list[float] = field(default_factory=lambda: [np.nan] * 4)

    def fill(self, rows: Rows) -> Rows:
        """Return the rows with both sides in each; call it with the blocks of a part in order."""
        count = len(rows.places)
        if not count:
            return rows
        is_bid = (np.nan_to_num(rows.floats["bid_price"]) != 0) | (np.nan_to_num(rows.floats["bid_size"]) != 0)
        filled: dict[str, Floats] = {}
        for i, (side, names) in enumerate(zip((is_bid, ~is_bid), _SIDES, strict=True)):
            # The row, counted from 1, that last carried this side; 0 is what was before this block.
            carrier = np.maximum.accumulate(np.where(side, np.arange(1, count + 1), 0))
            for j, name in enumerate(names):
                known = np.concatenate(([self.last[2 * i + j]], rows.floats[name]))
                filled[name] = known[carrier]
                self.last[2 * i + j] = float(filled[name][-1])
        return replace(rows, floats=filled)
