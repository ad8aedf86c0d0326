"""One consumer: from its position in the log through its operators into its tables."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from market_data_core.batch import EventBatch
from market_data_core.errors import LogError, MarketDataError, WriterConflict
from market_data_core.protocols import Mark, Operator, Result, Store, Table
from market_data_core.schemas import Kind
from market_data_core.steps import Step, reached
from market_data_pipeline.consumers.ledger import Ledger
from market_data_pipeline.consumers.snapshot import Snapshot, read_snapshot, write_snapshot
from market_data_pipeline.log import LogReader, Record, RecordType

LOG = logging.getLogger(__name__)
LOG_NODE = "log"
STORE_NODE = "store"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerSpec:
    """What a consumer does.

    Attributes:
        name: Names its position, snapshot and ledger; never to be given to another.
        kinds: What it reads from the log.
        operators: Makes its operators, in order; called at every start.
        routes: Which table each kind of its output goes to; what has no route is suppressed.
        config: Version of its configuration; a snapshot of another is not taken up.
    """

    name: str
    kinds: frozenset[Kind]
    operators: Callable[[], Sequence[Operator]]
    routes: Mapping[Kind, str]
    config: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerSettings:
    """When a consumer commits.

    Attributes:
        commit_rows: At the latest with so many rows waiting,
        commit_bytes: so many bytes,
        commit_s: or after so long since the first of them,
        commit_max_s: which grows to this where commits are slow, to four times what a commit takes.
        snapshot_s: How often the state is saved; bounds what a restart reads again.
        poll_s: How often the log is looked at while nothing comes.
        retry_s: How long to wait after a failure, doubling up to `retry_max_s`.
    """

    commit_rows: int = 256 * 1024
    commit_bytes: int = 128 << 20
    commit_s: float = 1.0
    commit_max_s: float = 10.0
    snapshot_s: float = 5.0
    poll_s: float = 0.02
    retry_s: float = 0.2
    retry_max_s: float = 5.0


@dataclass(slots=True)
class ConsumerStatus:
    """How a consumer is doing.

    Attributes:
        state: ``starting``, ``recovering`` (reading again what it had read before), ``running``, ``retrying``,
            ``stopped`` or ``conflict``.
        problem: Why it is not running; empty when it is.
        position: Exclusive end of what has gone through its operators.
        committed: Exclusive end of what is in its tables.
        snapshot: Position of its snapshot; the log below may go.
        commits: How many.
        commit_s: How long the last one took.
        ts_committed: When the last one was, seconds since the epoch.
        restarts: How often it began again after a failure.
        reports: One sentence for everything that was not as it should be.
    """

    state: str = "starting"
    problem: str = ""
    position: int = 0
    committed: int = 0
    snapshot: int = 0
    commits: int = 0
    commit_s: float = 0.0
    ts_committed: float = 0.0
    restarts: int = 0
    reports: list[str] = field(default_factory=list)


class _Sink:
    # One table with what waits for its next commit, and what it had before this start.
    def __init__(self, table: Table, writer: str) -> None:
        self.table = table
        self.version = table.position(writer) or 0
        self.covers = table.covers(writer)
        self.moved: dict[str, int] = {}
        self.waiting: list[pa.Table] = []
        self.rows = 0
        self.bytes = 0

    def put(self, rows: pa.Table) -> None:
        self.waiting.append(rows)
        self.rows += rows.num_rows
        self.bytes += rows.nbytes

    def had(self, record: Record, offset: int) -> bool:
        # True where the log was lost since and a source gives again what this table has.
        return record.end > self.version and offset <= self.covers.get(record.source_id, 0)

    def done(self, position: int) -> None:
        self.version, self.moved, self.waiting, self.rows, self.bytes = position, {}, [], 0, 0


class Consumer:
    """Runs a consumer in a thread until told to stop, and begins again from its snapshot after any failure.

    Args:
        spec: What it does.
        log_folder: The log to read.
        store: Where its tables are.
        folder: Where its snapshot is kept.
        settings: When it commits.
        durable: Says how far the log may be read.
    """

    def __init__(
        self,
        spec: ConsumerSpec,
        *,
        log_folder: Path,
        store: Store,
        folder: Path,
        settings: ConsumerSettings | None = None,
        durable: Callable[[], int] | None = None,
    ) -> None:
        self.spec = spec
        self.status = ConsumerStatus()
        self._log_folder = log_folder
        self._store = store
        self._snapshot_path = folder / f"{spec.name}.snapshot"
        self._settings = settings or ConsumerSettings()
        self._durable = durable
        self._stop = threading.Event()
        self._abort = threading.Event()
        self._drain_to: int | None = None
        self._thread = threading.Thread(target=self._run, name=f"consumer-{spec.name}", daemon=True)
        self._published: dict[str, dict[str, int]] = {}
        saved = read_snapshot(self._snapshot_path)
        self.status.snapshot = self.status.committed = self.status.position = saved.position if saved else 0

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, *, drain_to: int | None = None) -> None:
        """Ask for the end: at once, or when everything below a position is committed."""
        self._drain_to = drain_to
        self._stop.set()
        if drain_to is None:
            self._abort.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for the end; False when the time ran out first."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def ledger(self) -> dict[str, dict[str, int]]:
        """Return the counts by node, all as of one moment."""
        return self._published

    def _run(self) -> None:
        delay_s = self._settings.retry_s
        while True:
            try:
                self._session()
            except WriterConflict as exc:
                # Going on would double rows: somebody else is this consumer.
                self.status.state, self.status.problem = "conflict", str(exc)
                LOG.error("consumer %s stops: %s", self.spec.name, exc)
                return
            except Exception as exc:  # the supervisor: any failure is a restart from the snapshot
                self.status.state, self.status.problem = "retrying", _sentence(exc)
                self.status.restarts += 1
                LOG.warning(
                    "consumer %s begins again from its snapshot: %s",
                    self.spec.name,
                    self.status.problem,
                    exc_info=not isinstance(exc, MarketDataError | OSError),
                )
                if self._abort.wait(delay_s):
                    return
                delay_s = min(delay_s * 2, self._settings.retry_max_s)
            else:
                self.status.state = "stopped"
                return

    def _session(self) -> None:
        _Session(self).run()


class _Session:
    # One life of a consumer: everything in here is rebuilt from snapshot, tables and log after a failure.
    def __init__(self, consumer: Consumer) -> None:
        self._c = consumer
        self._spec = consumer.spec
        self._settings = consumer._settings
        self._operators = list(self._spec.operators())
        self._ledger = Ledger((LOG_NODE, *(o.name for o in self._operators), STORE_NODE))
        saved = read_snapshot(consumer._snapshot_path)
        if saved is not None and saved.config != self._spec.config:
            self._report(f"snapshot of configuration {saved.config!r} is not taken up by {self._spec.config!r}")
            saved = None
        self._covers: dict[str, int] = {}
        if saved is not None:
            self._ledger.restore(saved.ledger)
            self._covers = dict(saved.covers)
            for operator in self._operators:
                if operator.name in saved.operators:
                    operator.restore(saved.operators[operator.name])
        self._sinks = {
            name: _Sink(consumer._store.table(name), self._spec.name)
            for name in sorted(set(self._spec.routes.values()))
        }
        position = saved.position if saved is not None else 0
        self._reader = self._open(position)
        self._done = self._saved_at = self._reader.position
        # Sources that can wait go by this, and there may be nothing to read that would bring it about.
        consumer.status.position = self._done
        consumer.status.committed = max(consumer.status.committed, self._done)
        self._catch_up_to = max([position, *(s.version for s in self._sinks.values())])
        self._records: list[Record] = []
        self._ts_known = 0
        self._waiting_since: float | None = None
        self._saved_time = time.monotonic()
        self._publish()

    def _report(self, message: str) -> None:
        LOG.warning("consumer %s: %s", self._spec.name, message)
        self._c.status.reports.append(message)

    def _open(self, position: int) -> LogReader:
        try:
            return LogReader(self._c._log_folder, position, durable=self._c._durable)
        except LogError as exc:
            # A consumer without its snapshot, or one that is new, begins where the log does.
            first = int(exc.details.get("first_seq", 0))
            self._report(str(exc))
            return LogReader(self._c._log_folder, first, durable=self._c._durable)

    def run(self) -> None:
        self._c.status.state = "recovering" if self._done < self._catch_up_to else "running"
        try:
            while True:
                before = self._reader.position
                for record in self._reader.read():
                    self._take(record)
                    if self._c._abort.is_set():
                        break
                if self._done >= self._catch_up_to and self._c.status.state != "running":
                    self._c.status.state = "running"
                for problem in self._reader.problems:
                    self._report(problem)
                self._reader.problems.clear()
                if self._stopping():
                    break
                if self._waiting_since is not None and time.monotonic() - self._waiting_since >= self._commit_after_s():
                    self._commit()
                if self._reader.position == before:
                    self._save_if_due()
                    if self._waiting_since is None:
                        self._c.status.problem = ""
                    self._c._abort.wait(self._settings.poll_s)
            self._commit(save=True)
        finally:
            self._reader.close()

    def _stopping(self) -> bool:
        if not self._c._stop.is_set():
            return False
        return self._c._drain_to is None or self._done >= self._c._drain_to

    def _commit_after_s(self) -> float:
        s = self._settings
        return min(max(s.commit_s, 4 * self._c.status.commit_s), s.commit_max_s)

    # From the log through the operators. Nothing of a span counts before its barrier is there: accounts, offsets and
    # state move together, so a commit or snapshot between two spans is always of one moment.

    def _take(self, record: Record) -> None:
        if self._records and record.first_seq > self._records[-1].end:
            # The barrier that stood here is lost, with the log behind it or to damage. Tables may have what came before
            # it, so that must not get the end of a later one.
            self._take_span()
        self._records.append(record)
        if record.barrier:
            self._take_span()

    def _take_span(self) -> None:
        records, self._records = self._records, []
        end = records[-1].end
        span: list[EventBatch] = []
        for taken in records:
            self._ts_known = max(self._ts_known, taken.ts_append)
            if taken.type is RecordType.MARK:
                self._take_mark(taken, span)
            elif taken.type is RecordType.EVENTS and taken.kind in self._spec.kinds:
                self._take_events(taken, span)
            elif taken.type is RecordType.EVENTS:
                # Its source need not give it again for this consumer's sake.
                self._cover(taken.source_id, max(taken.offset, self._covers.get(taken.source_id, 0)))
        self._run(span, end)
        self._done = end
        self._after_span()

    def _take_events(self, record: Record, span: list[EventBatch]) -> None:
        node = self._ledger[LOG_NODE]
        node.received += record.count
        if record.corrupt:
            node.failed += record.count
            self._report(f"{record.count} {record.kind} from seq {record.first_seq} are damaged in the log and lost")
            return
        batch = record.events(self._reader.instruments)
        seen = self._covers.get(record.source_id, 0)
        if record.source_id and seen > record.offset - record.count:
            # Only after the log was lost or restored: the source gave again what this consumer had seen.
            fresh = max(record.offset - seen, 0)
            node.duplicate += record.count - fresh
            if not fresh:
                return
            batch = batch.with_data(batch.data.slice(len(batch) - fresh))
        self._cover(record.source_id, record.offset)
        node.passed += len(batch)
        if any(s.had(record, record.offset - len(batch) + 1) for s in self._sinks.values()):
            self._run(span, record.first_seq)
            self._take_again(batch, record)
        else:
            span.append(batch)

    def _take_again(self, batch: EventBatch, record: Record) -> None:
        # Tables know what they have by source offset here, not by position: the batch is cut at each table's own
        # end, and every part is a span of its own whose rows the tables beyond it do not take.
        start = record.offset - len(batch)
        cuts = sorted({s.covers.get(record.source_id, 0) for s in self._sinks.values()})
        edges = [start, *(c for c in cuts if start < c < record.offset), record.offset]
        for low, high in zip(edges, edges[1:], strict=False):
            part = batch.with_data(batch.data.slice(low - start, high - low))
            self._run([part], record.end, source=(record.source_id, high))

    def _take_mark(self, record: Record, span: list[EventBatch]) -> None:
        mark = _mark_of(record)
        given = bool(mark.source_id) and not record.meta.get("idle")
        if given and mark.offset <= self._covers.get(mark.source_id, 0):
            return
        again = given and any(s.had(record, mark.offset) for s in self._sinks.values())
        self._run(span, record.first_seq)
        if given:
            self._cover(mark.source_id, mark.offset)
        for operator in self._operators:
            operator.advance(mark)
        if again:
            self._run([], record.end, source=(mark.source_id, mark.offset))

    def _cover(self, source_id: str, offset: int) -> None:
        if source_id:
            self._covers[source_id] = offset
            for sink in self._sinks.values():
                sink.moved[source_id] = offset

    def _run(self, span: list[EventBatch], end: int, source: tuple[str, int] | None = None) -> None:
        for batch in _joined(span):
            self._pass(0, batch, end, source)
        span.clear()
        for at, operator in enumerate(self._operators):
            result = operator.barrier(end, self._ts_known)
            self._account(operator, result)
            for batch in result.out:
                self._pass(at + 1, batch, end, source)

    def _pass(self, at: int, batch: EventBatch, end: int, source: tuple[str, int] | None) -> None:
        for place in range(at, len(self._operators)):
            operator = self._operators[place]
            node = self._ledger[operator.name]
            node.received += len(batch)
            if batch.kind not in operator.kinds:
                node.passed += len(batch)
                continue
            result = operator.process(batch)
            self._account(operator, result)
            for out in result.out:
                self._pass(place + 1, out, end, source)
            return
        self._store(batch, end, source)

    def _account(self, operator: Operator, result: Result) -> None:
        node = self._ledger[operator.name]
        node.take(result)
        node.in_flight = operator.in_flight()

    def _store(self, batch: EventBatch, end: int, source: tuple[str, int] | None) -> None:
        node = self._ledger[STORE_NODE]
        node.received += len(batch)
        name = self._spec.routes.get(batch.kind)
        if name is None:
            node.suppressed += len(batch)
            return
        sink = self._sinks[name]
        if end <= sink.version or (source is not None and source[1] <= sink.covers.get(source[0], 0)):
            # It is in the table from before the restart.
            node.passed += len(batch)
            return
        sink.put(batch.to_table())
        node.in_flight += len(batch)
        if self._waiting_since is None:
            self._waiting_since = time.monotonic()

    # Into the tables.

    def _after_span(self) -> None:
        self._c.status.position = self._done
        if self._waiting_since is None:
            self._c.status.committed = self._done
        rows = sum(s.rows for s in self._sinks.values())
        size = sum(s.bytes for s in self._sinks.values())
        if (
            rows >= self._settings.commit_rows
            or size >= self._settings.commit_bytes
            or (self._waiting_since is not None and time.monotonic() - self._waiting_since >= self._commit_after_s())
        ):
            self._commit()

    def _commit(self, *, save: bool = False) -> None:
        started = time.monotonic()
        node = self._ledger[STORE_NODE]
        reached(Step.POSITION_TAKEN)
        committed = False
        for sink in self._sinks.values():
            if sink.rows:
                sink.table.append(
                    pa.concat_tables(sink.waiting), writer=self._spec.name, position=self._done, covers=sink.moved
                )
                node.passed += sink.rows
                node.in_flight -= sink.rows
                sink.done(self._done)
                committed = True
        self._c.status.committed = self._done
        self._waiting_since = None
        if committed:
            status = self._c.status
            status.commits += 1
            status.commit_s, status.ts_committed = time.monotonic() - started, time.time()
        self._publish()
        if save or time.monotonic() - self._saved_time >= self._settings.snapshot_s:
            self._save()
        # Only now: a consumer that fails at every commit is no better for having begun again.
        self._c.status.problem = ""

    def _save_if_due(self) -> None:
        due = time.monotonic() - self._saved_time >= self._settings.snapshot_s
        if due and self._waiting_since is None and self._done > self._saved_at:
            self._commit(save=True)

    def _save(self) -> None:
        if self._done == self._saved_at and self._c.status.snapshot == self._done:
            return
        states: dict[str, Any] = {o.name: o.snapshot() for o in self._operators}
        write_snapshot(
            self._c._snapshot_path,
            Snapshot(
                position=self._done,
                covers=self._covers,
                operators=states,
                ledger=self._ledger.snapshot(),
                config=self._spec.config,
            ),
        )
        self._saved_at, self._saved_time = self._done, time.monotonic()
        self._c.status.snapshot = self._done

    def _publish(self) -> None:
        self._c._published = self._ledger.snapshot()


def _mark_of(record: Record) -> Mark:
    meta = record.meta
    return Mark(
        vendor=str(meta["v"]),
        ts_ns=int(meta["t"]),
        symbols=tuple(meta.get("y", ())),
        source_id=record.source_id,
        offset=record.offset,
    )


def _joined(span: list[EventBatch]) -> list[EventBatch]:
    # Rows of one kind and source become one batch: an operator call costs the same for ten rows as for a thousand.
    if len(span) < 2:
        return span
    groups: dict[tuple[Kind, str, str], list[EventBatch]] = {}
    for batch in span:
        groups.setdefault((batch.kind, str(batch.origin), batch.source_id), []).append(batch)
    return [g[0] if len(g) == 1 else g[-1].with_data(pa.concat_batches([b.data for b in g])) for g in groups.values()]


def _sentence(exc: Exception) -> str:
    return str(exc) if isinstance(exc, MarketDataError) else f"{type(exc).__name__}: {exc}"
