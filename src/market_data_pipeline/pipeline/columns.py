"""Engine operators in a pipeline that has no log: numbered batches in, batches out, from barrier to barrier."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from market_data_core.batch import EventBatch, Instrument, Instruments, SourceBatch
from market_data_core.clock import NS_PER_SECOND, Clock
from market_data_core.errors import TransformError
from market_data_core.protocols import END_OF_TIME_NS, Mark, Operator, Result
from market_data_core.schemas import EVENT_SCHEMAS, Kind, Origin
from market_data_pipeline.capture import CaptureSettings, stamped
from market_data_pipeline.consumers.ledger import NodeCounts
from market_data_pipeline.events import to_source_batches

BARRIER_ROWS = 8192
"""Operators are asked for what is due at the latest after so many events."""
IDLE_LATENESS_NS = int(CaptureSettings().idle_lateness_s * NS_PER_SECOND)
"""How far behind our clock the time of a quiet live source is taken to be, as where there is a log."""
# Sources may give a table of instruments anew with every batch.
_KNOWN_TABLES = 64


def is_operator(candidate: object) -> TypeGuard[Operator]:
    """Return True for an operator over batches, False for a per-event step."""
    return all(hasattr(candidate, name) for name in ("process", "advance", "barrier", "kinds", "name"))


class Columns:
    """Runs operators over batches and keeps their accounts.

    An operator that fails cannot be trusted any more: `problem` names it from then on, what it was given counts as
    failed, and what comes after that as suppressed.

    Args:
        operators: In order.
        nodes: The account of each.
        origin: How the source's events come to us.
        vendor: Of events that do not say whose they are.
        clock: Stamps events that come without a receive time.
        kinds: What is worked on; None for all.
        source: The source's account; what is not worked on counts as filtered there.
    """

    def __init__(
        self,
        operators: Sequence[Operator],
        nodes: Sequence[NodeCounts],
        *,
        origin: Origin,
        vendor: str,
        clock: Clock,
        kinds: frozenset[Kind] | None,
        source: NodeCounts,
    ) -> None:
        self.waiting_rows = 0
        self.problem: TransformError | None = None
        self._operators = list(zip(operators, nodes, strict=True))
        self._origin = origin
        self._vendor = vendor
        self._clock = clock
        self._kinds = kinds
        self._source = source
        self._end = 0
        self._ts_known = 0
        self._moved = False
        self._table = Instruments()
        self._ids: dict[int, tuple[Sequence[Instrument], npt.NDArray[np.int32]]] = {}
        self._loose: list[Any] = []
        self._vendors: dict[str, list[Instrument]] = {}
        self._speakers: dict[tuple[str, str], None] = {}

    def take_event(self, event: Any) -> None:
        """Take one value; it is worked on at the next barrier."""
        self._source.received += 1
        self._source.in_flight += 1
        self._loose.append(event)
        self.waiting_rows += 1

    def take(self, item: SourceBatch | Mark) -> list[EventBatch]:
        """Take what a source gives; return what has come through all operators."""
        if isinstance(item, Mark):
            # What the mark closes must hold all that came before it.
            out = self.barrier()
            self._advance(item)
            return [*out, *self.barrier()]
        self._source.received += item.data.num_rows
        self.waiting_rows += item.data.num_rows
        return self._work(item)

    def barrier(self) -> list[EventBatch]:
        """Return what is due, such as bars of windows that have closed."""
        out = self._work_loose()
        self.waiting_rows = 0
        if not self._moved:
            return out
        self._moved = False
        for at, (operator, node) in enumerate(self._operators):
            result = self._call(operator, node, partial(operator.barrier, self._end, self._ts_known))
            for batch in result.out:
                out += self._pass(at + 1, batch)
        return out

    def idle(self, now_ns: int) -> None:
        """Take note that a live source has nothing older than `IDLE_LATENESS_NS` still to give."""
        for vendor, source_id in self._speakers:
            self._advance(Mark(vendor=vendor, source_id=source_id, ts_ns=now_ns - IDLE_LATENESS_NS))

    def end(self) -> list[EventBatch]:
        """Close every window: the source has no more."""
        out = self.barrier()
        for vendor, source_id in self._speakers:
            self._advance(Mark(vendor=vendor, source_id=source_id, ts_ns=END_OF_TIME_NS))
        return [*out, *self.barrier()]

    def _advance(self, mark: Mark) -> None:
        for operator, _ in self._operators:
            operator.advance(mark)
        self._moved = True

    def _work_loose(self) -> list[EventBatch]:
        events, self._loose = self._loose, []
        self._source.in_flight = 0
        out: list[EventBatch] = []
        for vendor, values in _by_vendor(events, self._vendor).items():
            instruments = self._vendors.setdefault(vendor, [])
            for batch in to_source_batches(values, vendor, instruments):
                out += self._work(batch)
        return out

    def _work(self, batch: SourceBatch) -> list[EventBatch]:
        rows = batch.data.num_rows
        if not rows:
            return []
        if self._kinds is not None and batch.kind not in self._kinds:
            self._source.filtered += rows
            return []
        self._source.passed += rows
        self._moved = True
        return self._pass(0, self._numbered(batch))

    # What the log does elsewhere: one sequence of numbers, one table of instruments.
    def _numbered(self, batch: SourceBatch) -> EventBatch:
        batch = stamped(batch, self._clock.now_ns())
        data, rows = batch.data, batch.data.num_rows
        ids = self._ids_of(batch.instruments)[data.column("instrument").to_numpy()]
        own = {
            "instrument": pa.array(ids, pa.int32()),
            "seq": pa.array(np.arange(self._end, self._end + rows, dtype=np.int64)),
        }
        schema = EVENT_SCHEMAS[batch.kind]
        arrays = [own[name] if name in own else data.column(name) for name in schema.names]
        self._end += rows
        self._ts_known = max(self._ts_known, int(data.column("ts_recv").to_numpy().max()))
        for i in np.unique(ids).tolist():
            self._speakers.setdefault((self._table[i].vendor, batch.source_id))
        return EventBatch(
            kind=batch.kind,
            data=pa.RecordBatch.from_arrays(arrays, schema=schema),
            instruments=self._table,
            origin=self._origin,
            source_id=batch.source_id,
            offset=batch.offset,
        )

    def _ids_of(self, instruments: Sequence[Instrument]) -> npt.NDArray[np.int32]:
        # Kept with the table itself, so that its id is not given to another while it is known here.
        _, known = self._ids.get(id(instruments), (instruments, np.empty(0, np.int32)))
        if len(known) < len(instruments):
            if len(self._ids) >= _KNOWN_TABLES:
                self._ids.clear()
            fresh = [self._table.add(instruments[i]) for i in range(len(known), len(instruments))]
            known = np.concatenate([known, np.array(fresh, np.int32)])
            self._ids[id(instruments)] = (instruments, known)
        return known

    def _pass(self, at: int, batch: EventBatch) -> list[EventBatch]:
        for place in range(at, len(self._operators)):
            operator, node = self._operators[place]
            node.received += len(batch)
            if batch.kind not in operator.kinds:
                node.passed += len(batch)
                continue
            if self.problem is not None:
                node.suppressed += len(batch)
                return []
            result = self._call(operator, node, partial(operator.process, batch), rows=len(batch))
            return [done for out in result.out for done in self._pass(place + 1, out)]
        return [batch]

    def _call(self, operator: Operator, node: NodeCounts, work: Callable[[], Result], rows: int = 0) -> Result:
        if self.problem is not None:
            return Result()
        try:
            result = work()
        except Exception as exc:  # noqa: BLE001  the supervisor of operators: counted, kept, and raised by the run
            node.failed += rows
            self.problem = TransformError(f"operator {operator.name} failed: {type(exc).__name__}: {exc}")
            self.problem.__cause__ = exc
            return Result()
        node.take(result)
        node.in_flight = operator.in_flight()
        return result


def _by_vendor(events: Iterable[Any], default: str) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for event in events:
        found.setdefault(event.meta.vendor if event.meta else default, []).append(event)
    return found
