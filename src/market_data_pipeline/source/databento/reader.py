"""One DBN file, read to its end: rows with their numbers, in stretches."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import databento_dbn as dbn
import numpy as np
import pyarrow as pa
from databento_dbn import Metadata, RType

from market_data_core.batch import Instrument, unlogged
from market_data_core.errors import SourceError
from market_data_core.schemas import Kind
from market_data_pipeline.source.databento.columns import Int32s, Rows, Stamps, raw_symbols, rows_of, stamps
from market_data_pipeline.source.databento.files import DbnBytes, DbnFile, is_fragment
from market_data_pipeline.source.databento.records import Group, Int64s, Piece
from market_data_pipeline.source.databento.symbols import DAY_NS, Symbols, text
from market_data_pipeline.source.replay.events import InstrumentTable

VENDOR: Final = "databento"
_PRICE_DECIMALS: Final = 9
_PREFIX_BYTES: Final = 8  # "DBN", the version, and how long the rest of the metadata is
_PIECE_BYTES: Final = 1 << 20
_LONGEST_RECORD_BYTES: Final = 1020  # 255 words
_MESSAGES: Final = frozenset({int(RType.ERROR), int(RType.SYSTEM), int(RType.SYMBOL_MAPPING)})
_STRETCH_NS: Final = 1_000_000_000
# What a kind may refer to comes before it: instruments before quotes, the quote a trade was done at before the trade.
_ORDER: Final = (*(Kind.DEFINITIONS, Kind.STATUS, Kind.QUOTES, Kind.DEPTH, Kind.TRADES, Kind.BARS, Kind.ANALYTICS),)

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Rows of one kind, one behind the other in the file's sequence.

    Attributes:
        kind: What they are.
        data: In ``UNLOGGED_SCHEMAS[kind]``; without rows of unwanted symbols.
        numbers: Of each row, from 0; ascending, with holes where rows are not wanted.
        reached: For each row the latest time up to it, UTC nanoseconds; never descends.
    """

    kind: Kind
    data: pa.RecordBatch
    numbers: Int64s
    reached: Int64s


class DbnReader:
    """Reads one file from its start to its end.

    The numbers of rows depend on the file alone. Where several kinds come from one second of the file, each kind's
    rows stand together; the kinds follow one another in a fixed order.

    Args:
        file: What to read.
        instruments: Where its instruments are entered.
        symbols: Only these, upper-cased; None for all.

    Attributes:
        metadata: Of the file; None for a fragment.
        start_ns: The time of its first record, else where its metadata says it begins; UTC nanoseconds.
        seen: The wanted symbols so far.
        records: How many have been read.
        rows: How many rows they gave, unwanted ones included.

    Raises:
        SourceError: The file cannot be read or is no DBN file; names it.
    """

    def __init__(
        self, file: DbnFile, *, instruments: InstrumentTable | None = None, symbols: Collection[str] | None = None
    ) -> None:
        self._file = file
        self._instruments = instruments or InstrumentTable()
        self._wanted = symbols
        self._source = DbnBytes(file)
        self.seen: dict[str, None] = {}
        self.records = 0
        self.rows = 0
        self._latest = 0
        self._places: dict[str, int] = {}
        try:
            self.metadata, self._at_byte, self._rest = self._begin()
            self.start_ns = self._first_time()
        except BaseException:
            self._source.close()
            raise
        self._symbols = Symbols(self.metadata)

    @property
    def consumed_bytes(self) -> int:
        """How much of the file's size on disk has been read."""
        return self._source.consumed_bytes

    @property
    def schema(self) -> str:
        """The schema the metadata names; ``mixed`` where it names none, ``fragment`` where there is no metadata."""
        return "fragment" if self.metadata is None else str(self.metadata.schema or "mixed")

    def close(self) -> None:
        """Close the file. May be called twice."""
        self._source.close()

    def stretches(self) -> Iterator[list[Run]]:
        """Give everything in order, what belongs together at once. Can be called once.

        Raises:
            SourceError: The file is damaged, cut off or holds what is no record; names file and place. What stands
                before that has been given.
        """
        data = self._fill()
        while True:
            piece = Piece(data)
            for mappings, groups in piece.segments():
                if mappings is not None:
                    self._symbols.learn(mappings.records)
                yield from self._runs(groups)
            self.records += piece.count
            self._at_byte += piece.end
            if piece.problem:
                raise SourceError(
                    f"{self._here()} is {piece.problem}, which no DBN record is: the file is damaged or newer than "
                    "this program"
                )
            self._rest = data[piece.end :]
            if len(data) < _PIECE_BYTES:
                break
            data = self._fill()
        if self._source.damage is not None:
            raise self._source.damage
        if self._rest:
            raise SourceError(f"{self._here()} begins a record that the file does not end: it is cut off")

    # Pieces always end at the same bytes of a file, so what is in one does not depend on how it was read before.
    def _fill(self) -> bytes:
        return self._rest + self._source.read(_PIECE_BYTES - len(self._rest))

    def _here(self) -> str:
        return f"{self._file.path}: behind record {self.records}, at byte {self._at_byte} of what it unpacks to,"

    def _begin(self) -> tuple[Metadata | None, int, bytes]:
        place = self._file.path
        head = self._source.read(_PREFIX_BYTES)
        if not head.startswith(b"DBN"):
            if self._source.damage is not None:
                raise self._source.damage
            if not is_fragment(place):
                raise SourceError(
                    f"{place} is not a DBN file: it begins with {head!r}, not with DBN's metadata. A piece of a DBN "
                    "stream without metadata is read if it is called .dbn.frag"
                )
            return None, 0, head
        length = int.from_bytes(head[4:], "little")
        encoded = head + self._source.read(length)
        if len(encoded) < _PREFIX_BYTES + length:
            raise self._source.damage or SourceError(f"{place} is cut off: it ends inside its metadata")
        try:
            return Metadata.decode(encoded), len(encoded), b""
        except dbn.DBNError as exc:
            raise SourceError(f"{place}: its metadata cannot be read: {exc}") from exc

    def _first_time(self) -> int:
        self._rest += self._source.read(_LONGEST_RECORD_BYTES - len(self._rest))
        for _, groups in Piece(self._rest).segments():
            for group in groups:
                if group.at[0] == 0:
                    return int(stamps(group).index[0])
        return 0 if self.metadata is None else self.metadata.start

    def _runs(self, groups: Sequence[Group]) -> Iterator[list[Run]]:
        events = [group for group in groups if not self._is_message(group)]
        if not events:
            return
        found: dict[Kind, list[_Table]] = {}
        given = [stamps(group) for group in events]
        for group, stamp in zip(events, given, strict=True):
            instrument = self._instrument(group, stamp.index)
            for rows in rows_of(group, stamp.flags):
                found.setdefault(rows.kind, []).append(_table(group, stamp, instrument, rows))
        at = np.concatenate([group.at for group in events])
        order = np.argsort(at, kind="stable")
        at = at[order]
        reached = np.maximum(np.maximum.accumulate(np.concatenate([s.index for s in given])[order]), self._latest)
        self._latest = int(reached[-1])
        tables = [_joined(kind, found[kind]) for kind in _ORDER if kind in found]
        edges = at[np.flatnonzero(np.diff(reached // _STRETCH_NS)) + 1].tolist() if len(tables) > 1 else []
        for start, end in pairwise([0, *edges, int(at[-1]) + 1]):
            yield [run for table in tables for run in self._run(table, start, end, at, reached)]

    def _run(self, table: _Table, start: int, end: int, at: Int64s, reached: Int64s) -> Iterator[Run]:
        first, last = np.searchsorted(table.at, (start, end)).tolist()
        if first == last:
            return
        data = table.data.slice(first, last - first)
        numbers = np.arange(self.rows, self.rows + last - first)
        times = reached[np.searchsorted(at, table.at[first:last])]
        self.rows += last - first
        keep = data.column("instrument").to_numpy() >= 0
        if not keep.all():
            data, numbers, times = data.filter(pa.array(keep)), numbers[keep], times[keep]
        if len(numbers):
            yield Run(kind=table.kind, data=data, numbers=numbers, reached=times)

    def _instrument(self, group: Group, index: Int64s) -> Int32s:
        own = raw_symbols(group)
        if own:
            numbers, days = group.records["instrument_id"].tolist(), (index // DAY_NS).tolist()
            named = zip(numbers, days, own, strict=True)
            return np.array([self._place(self._symbols.find(n, d) or o or str(n)) for n, d, o in named], np.int32)
        distinct, places = self._symbols.codes(group.records["instrument_id"], index)
        known = [self._place(self._symbols.find(n, d) or str(n)) for n, d in distinct]
        return np.array(known, np.int32)[places]

    # The place of an instrument in the table, -1 for one that is not wanted.
    def _place(self, name: str) -> int:
        if name not in self._places:
            symbol = name.strip().upper()
            self._places[name] = -1
            if self._wanted is None or symbol in self._wanted:
                self.seen[symbol] = None
                self._places[name] = self._instruments.add(
                    Instrument(vendor=VENDOR, symbol=symbol, price_decimals=_PRICE_DECIMALS, size_decimals=0)
                )
        return self._places[name]

    # What the feed says of itself is no event. Errors are told, for what was asked for then may be missing.
    def _is_message(self, group: Group) -> bool:
        if group.rtype == int(RType.ERROR):
            for error in group.records["err"].tolist():
                LOG.warning("%s: the recorded feed reported: %s", self._file.path, text(error))
        return group.rtype in _MESSAGES


@dataclass(frozen=True, slots=True)
class _Table:
    kind: Kind
    at: Int64s
    data: pa.RecordBatch


def _table(group: Group, stamp: Stamps, instrument: Int32s, rows: Rows) -> _Table:
    columns = {
        "instrument": instrument[rows.at],
        "ts_event": stamp.ts_event[rows.at],
        "flags": stamp.flags[rows.at],
        **rows.columns,
    }
    return _Table(rows.kind, group.at[rows.at], unlogged(rows.kind, len(rows.at), columns))


# Rows of one kind from records of several types, in the order of the records.
def _joined(kind: Kind, tables: Sequence[_Table]) -> _Table:
    if len(tables) == 1:
        return tables[0]
    at = np.concatenate([t.at for t in tables])
    order = np.argsort(at, kind="stable")
    data = pa.Table.from_batches([t.data for t in tables]).combine_chunks().to_batches()[0]
    return _Table(kind, at[order], data.take(pa.array(order)))
