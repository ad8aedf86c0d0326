"""Ticks up to a position, wherever they are by now: in the store, or still only in the log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from market_data_core.batch import Instrument
from market_data_core.errors import LogError
from market_data_core.protocols import Store
from market_data_core.schemas import TABLE_SCHEMAS, Kind
from market_data_pipeline.log import LogReader, RecordType
from market_data_pipeline.operators.validate import FUTURE_NS


class LogAndStoreHistory:
    """Reads ticks from the raw tables as far as they go, and the rest from the log.

    What comes back depends on the position asked for and not on how far the raw consumer has got, so bars made from
    it are a function of the log alone.

    Args:
        store: Where raw ticks are stored.
        log_folder: The log.
        writer: The name of the consumer that stores raw ticks.
        durable: Says how far the log may be read.
        dedupe: True for bars made behind `Dedupe`: of rows with one trade id only the first by ``seq`` comes back.
    """

    def __init__(
        self,
        store: Store,
        log_folder: Path,
        *,
        writer: str = "raw",
        durable: Callable[[], int] | None = None,
        dedupe: bool = False,
    ) -> None:
        self._store = store
        self._folder = log_folder
        self._writer = writer
        self._durable = durable
        self._dedupe = dedupe

    def ticks(self, kind: Kind, instrument: Instrument, *, start_ns: int, end_ns: int, below_seq: int) -> pa.Table:
        """Return events in ``[start_ns, end_ns)`` by ``ts_event`` with ``seq < below_seq``, by (ts_event, seq)."""
        begins = 0
        while True:
            table = self._store.table(str(kind))
            stored_to = min(table.position(self._writer) or 0, below_seq)
            stored = self._store.ticks(
                kind, instrument.vendor, instrument.symbol, start_ns=start_ns, end_ns=end_ns, below_seq=stored_to
            )
            wanted = _wanted(instrument, start_ns, end_ns, from_seq=stored_to, below_seq=below_seq)
            try:
                logged = self._logged(kind, wanted, max(stored_to, begins), below_seq, table.covers(self._writer))
            except LogError as exc:
                if "first_seq" not in exc.details:
                    raise
                # The log goes only once its rows are stored: another look at the table finds those that it held.
                begins = int(exc.details["first_seq"])
                continue
            found = pa.concat_tables([stored.select(TABLE_SCHEMAS[kind].names).cast(TABLE_SCHEMAS[kind]), *logged])
            if self._dedupe and kind is Kind.TRADES:
                found = _first_of_each_id(found)
            # Stored rows carry the flags of validation, logged ones do not yet. Of what keeps a row out of bars, only a
            # time ahead of our own can lie in a window that is being made again, and it needs no state to be known.
            ahead = pc.greater(found.column("ts_event"), pc.add(found.column("ts_recv"), FUTURE_NS))
            return found.filter(pc.invert(ahead)).sort_by([("ts_event", "ascending"), ("seq", "ascending")])

    def _logged(
        self, kind: Kind, wanted: pc.Expression, from_seq: int, below_seq: int, stored: Mapping[str, int]
    ) -> list[pa.Table]:
        if from_seq >= below_seq:
            return []
        found: list[pa.Table] = []
        with LogReader(self._folder, from_seq, durable=self._durable, kinds=frozenset({kind})) as reader:
            while reader.position < below_seq:
                before = reader.position
                for record in reader.read():
                    if record.first_seq >= below_seq:
                        return found
                    if record.type is RecordType.EVENTS and record.kind is kind and record.payload is not None:
                        # Where the log was lost, sources give again what the table has.
                        again = max(record.count - max(record.offset - stored.get(record.source_id, 0), 0), 0)
                        data = record.events(reader.instruments).to_table()
                        found.append(data.slice(again if record.source_id else 0).filter(wanted))
                if reader.position == before:
                    break
        return found


def _first_of_each_id(rows: pa.Table) -> pa.Table:
    rows = rows.sort_by([("seq", "ascending")])
    seen: set[str] = set()
    keep = []
    for trade_id in rows.column("trade_id").to_pylist():
        keep.append(trade_id is None or trade_id not in seen)
        if trade_id is not None:
            seen.add(trade_id)
    return rows.filter(pa.array(keep, pa.bool_()))


def _wanted(instrument: Instrument, start_ns: int, end_ns: int, *, from_seq: int, below_seq: int) -> pc.Expression:
    return (
        (pc.field("vendor") == instrument.vendor)
        & (pc.field("symbol") == instrument.symbol)
        & (pc.field("ts_event") >= start_ns)
        & (pc.field("ts_event") < end_ns)
        & (pc.field("seq") >= from_seq)
        & (pc.field("seq") < below_seq)
    )
