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
from market_data_pipeline.source.reading import NO_TIME
from market_data_pipeline.source.replay.blocks import BadRow, Block
from market_data_pipeline.source.replay.chain import Chain
from market_data_pipeline.source.replay.files import Part
from market_data_pipeline.source.replay.layout import Layout, field_of
from market_data_pipeline.source.replay.times import (
    Bools,
    Int64s,
    TimeUnit,
    Zone,
    compact_to_iso,
    counts_to_utc,
    iso_to_utc,
    zone,
)

Floats = npt.NDArray[np.float64]
Int32s = npt.NDArray[np.int32]

UNKNOWN_SYMBOL: Final = "?"
"""The symbol of quarantined rows of files that say the symbol row by row."""

_INT32_MAX: Final = 2**31 - 1
_PRICES: Final = frozenset({"open", "high", "low", "close", "vwap"})
_SIZES: Final = frozenset({"volume", "open_interest"})
_REQUIRED: Final = {Kind.TRADES: ("price", "size"), Kind.BARS: ("open", "high", "low", "close")}


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
        nullable = {name: _absent_where_nan(values) for name, values in self.floats.items()}
        columns = {"instrument": self.instrument, "ts_event": self.ts_event, "flags": self.flags}
        return unlogged(kind, len(self.places), {**columns, **nullable, **self.texts})


def _absent_where_nan(values: Floats) -> pa.Array:
    # Most columns lack nothing, and Arrow takes those as they are instead of row by row.
    return pa.array(values, from_pandas=bool(np.isnan(values).any()))


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
        self._zone: Zone | None = zone(named) if named else None if self._unit.is_text else zone("UTC")
        self._fields = {f.name: f.type for f in KIND_FIELDS[part.layout.kind]}
        contract = part.layout.contract
        self._chain = Chain(contract, part.underlying or "") if contract and contract.columns else None
        self._section = part
        # By text as it stands in the file, so upper-casing and look-ups happen once per text and not once per row.
        self._ids: dict[tuple[str, str], int] = {}
        self.seen: dict[str, dict[str, None]] = {}
        """By vendor, its wanted symbols in the order they came; a vendor without any is there too."""

    def enter(self, section: Part) -> None:
        """Go on with the next section of a part of several."""
        self._section = section

    def convert(self, block: Block) -> Rows:
        """Return the rows of a block as events and bad rows; rows of unwanted symbols are in neither."""
        if self._chain:
            block = self._chain.apply(block)
        table = block.table.combine_chunks()
        refused = _Refused(table.num_rows)
        columns = {n: _only_chunk(table.column(n)) for n in table.column_names}
        ts_event = self._times(columns.get("time"), refused, table.num_rows)
        numeric = [n for n in columns if self._fields.get(field_of(n)) == pa.float64()]
        floats = {n: self._floats(n, columns[n], refused) for n in numeric}
        _refuse_partial(self._layout, floats, refused)
        _drop_absent(self._layout, floats)
        flags = self._flags(columns, refused, table.num_rows)
        named = self._named(columns, refused, table.num_rows)
        texts = {n: a for n, a in columns.items() if n in self._fields and n not in floats}
        texts |= self._constants(table.num_rows)
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

    def instrument_of_bad_rows(self, section: Part) -> int:
        """Return the instrument that quarantined rows of a section, or of the whole part, are entered under."""
        return self._enter(self._layout.vendor, section.symbol or UNKNOWN_SYMBOL)

    # What all rows of the section have in common.
    def _constants(self, rows: int) -> dict[str, pa.Array]:
        said: dict[str, str | int | float] = dict(self._layout.constants)
        contract = self._section.contract
        if contract and self._layout.kind is Kind.OPTIONS:
            names = ("underlying", "expiry", "strike", "right")
            said |= {n: getattr(contract, n) for n in names}
        if self._layout.kind is Kind.BARS:
            said["revision"] = 0
        return {n: pa.repeat(pa.scalar(v, self._fields[n]), rows) for n, v in said.items()}

    def _enter(self, vendor: str, symbol: str) -> int:
        return self._instruments.add(
            Instrument(
                vendor=vendor,
                symbol=symbol,
                price_decimals=self._layout.price_decimals,
                size_decimals=self._layout.size_decimals,
            )
        )

    def _times(self, column: pa.Array | None, refused: _Refused, rows: int) -> Int64s:
        if column is None:
            column = pa.repeat(pa.scalar(0, pa.int64()), rows)
        if column.null_count:
            refused.where(_nulls(column), "time is missing")
        if self._unit.is_text:
            compact = self._unit is TimeUnit.YYYYMMDD_HHMM
            times, valid, placeless = iso_to_utc(compact_to_iso(column) if compact else column, zone=self._zone)
            form = "like 20140605 00:00" if compact else "ISO 8601"
            refused.where(~valid, f"time is not {form}, or outside the years 1678 to 2261")
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
            label = name if name in self._fields else str(self._layout.used[name])
            refused.where(~finite if missing is None else ~finite & ~missing, f"{label} is not a finite number")
        if missing is not None and name in _REQUIRED.get(self._layout.kind, ()):
            refused.where(missing, f"{name} is missing")
        scale = _scale_of(self._layout, field_of(name))
        return values / 10.0**scale if scale else values

    def _flags(self, columns: dict[str, pa.Array], refused: _Refused, rows: int) -> Int32s:
        flags = np.zeros(rows, np.int32)
        if "flags" in columns:
            given = columns["flags"].fill_null(0).to_numpy(zero_copy_only=False)
            if len(given) and (given.min() < 0 or given.max() > _INT32_MAX):
                odd = (given < 0) | (given > _INT32_MAX)
                refused.where(odd, "flags are outside 0 to 2147483647")
                given = np.where(odd, 0, given)
            flags = given.astype(np.int32)
        if "suspicious" in columns:
            doubted = columns["suspicious"].fill_null(0).to_numpy(zero_copy_only=False) != 0
            flags[doubted] |= np.int32(Flag.SUSPICIOUS)
        return flags

    # Vendor and symbol as codes into the distinct texts; None if the path says the symbol and nothing the vendor.
    def _named(
        self, columns: dict[str, pa.Array], refused: _Refused, rows: int
    ) -> tuple[Int64s, list[tuple[str, str]]] | None:
        symbol = self._section.symbol or ""
        if "symbol" not in columns and "vendor" not in columns and (self._symbols is None or symbol in self._symbols):
            return None
        if self._chain:
            refused.where(_nulls(columns["symbol"]), "expiry, strike and right name no contract")
        vendors, vendor_codes = _coded(columns.get("vendor"), self._layout.vendor, rows)
        symbols, symbol_codes = _coded(columns.get("symbol"), symbol, rows)
        blank = np.array([not s.strip() for s in symbols], np.bool_)
        if blank.any():
            refused.where(blank[symbol_codes], "symbol is missing")
        codes = symbol_codes if len(vendors) == 1 else vendor_codes * len(symbols) + symbol_codes
        pairs = [(v or self._layout.vendor, s.strip().upper()) for v in vendors for s in symbols]
        return codes, pairs

    # The instrument of every event that stays, and which stay if the filter leaves any out.
    def _instrument(
        self, named: tuple[Int64s, list[tuple[str, str]]] | None, keep: Int64s | None, rows: int
    ) -> tuple[Int32s, Int64s | None]:
        if named is None:
            count = rows if keep is None else len(keep)
            symbol = self._section.symbol or UNKNOWN_SYMBOL
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
        found = list(block.bad)
        for i, reason in refused.reasons.items():
            row = int(block.places[i])
            line, raw = block.describe(row)
            found.append(BadRow(row=row, line=line, reason=reason, raw=raw))
        if self._section is not self._part:
            found = [replace(r, member=self._section.member) for r in found]
        return sorted(found, key=lambda r: r.row)


def _scale_of(layout: Layout, name: str) -> int:
    if name in _PRICES or name.endswith("price"):
        return layout.price_scale
    return layout.size_scale if name in _SIZES or name.endswith("size") else 0


# Events that a row holds side by side are whole or not there, and at least one is.
def _refuse_partial(layout: Layout, floats: dict[str, Floats], refused: _Refused) -> None:
    nothing: Bools = np.ones(refused.rows, np.bool_)
    for i, event in enumerate(layout.events):
        there = (~np.isnan([floats[f"{i}.{name}"] for name in event.columns])).sum(axis=0)
        columns = ", ".join(map(str, event.columns.values()))
        refused.where((there > 0) & (there < len(event.columns)), f"{columns} are not all there")
        nothing &= there == 0
    if layout.events:
        refused.where(nothing, "no prices at all")


def _drop_absent(layout: Layout, floats: dict[str, Floats]) -> None:
    zero = {name: floats[name] == 0 for name in layout.zero_is_absent if name in floats}
    for name, rows in zero.items():
        for also in (name, *layout.zero_is_absent[name]):
            if also in floats:
                floats[also] = np.where(rows, np.nan, floats[also])


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
    indices = coded.indices
    if indices.null_count:
        indices, names = pc.fill_null(indices, len(names)), [*names, ""]
    return names, indices.to_numpy(zero_copy_only=False).astype(np.int64)
