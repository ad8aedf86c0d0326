"""One life of a consumer, from its snapshot to its end or its first failure."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import Future
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

from market_data_core.batch import EventBatch, to_table
from market_data_core.errors import LogError
from market_data_core.protocols import Mark
from market_data_core.steps import Step, reached
from market_data_pipeline.consumers.ledger import Ledger
from market_data_pipeline.consumers.model import CONFIGURATION, LOG_NODE, STORE_NODE, Surroundings
from market_data_pipeline.consumers.snapshot import Snapshot, read_snapshot, write_snapshot
from market_data_pipeline.consumers.spans import Flow, Spans, mark_of
from market_data_pipeline.log import LogReader, Record, RecordType
from market_data_pipeline.log.segments import list_segments, sources_before
from market_data_pipeline.writing.dead_letters import Place
from market_data_pipeline.writing.table_writer import Run, TableWriter

LOG = logging.getLogger(__name__)


class _Sink:
    # One table with what waits for its next commit, and what it had before this start.
    def __init__(self, given: Surroundings, name: str, since: int) -> None:
        self.writer = TableWriter(lambda: given.store.table(name), writer=given.spec.name, letters=given.letters)
        self.covers = self.writer.covers
        # Those set aside of what is made again now.
        self.refused = self.writer.refused(above=since)
        self.moved: dict[str, int] = {}
        self.waiting: list[EventBatch] = []
        self.rows = 0
        self.bytes = 0
        self._runs: list[Run] = []
        self._last = Run(end=0, first=0, rows=0)

    @property
    def version(self) -> int:
        return self.writer.position

    # How many of the next rows, which come out of the span of that end, the table has dealt with, and how many of
    # these it refused. The others wait.
    def put(self, batch: EventBatch, end: int) -> tuple[int, int]:
        first = self._last.first + self._last.rows if self._last.end == end else 0
        self._last = run = Run(end=end, first=first, rows=len(batch))
        dealt = self.writer.dealt(run)
        if dealt < run.rows:
            self.waiting.append(batch.with_data(batch.data.slice(dealt)) if dealt else batch)
            self._runs.append(Run(end=end, first=first + dealt, rows=run.rows - dealt))
            self.rows += run.rows - dealt
            self.bytes += self.waiting[-1].data.nbytes
        return dealt, sum(Place(end, first + n) in self.refused for n in range(dealt)) if self.refused else 0

    def had(self, record: Record, offset: int) -> bool:
        # True where the log was lost since and a source gives again what this table has. One without an id cannot.
        return bool(record.source_id) and record.end > self.version and offset <= self.covers.get(record.source_id, 0)

    # What waits goes into the table when what this returns is called, by whatever thread; what is put here meanwhile is
    # of the next commit.
    def commit(self, position: int) -> Callable[[], _Committed]:
        waiting, covers, runs = self.waiting, self.moved, self._runs
        self.moved, self.waiting, self._runs, self.rows, self.bytes = {}, [], [], 0, 0

        def committed() -> _Committed:
            started = time.monotonic()
            rows = to_table(waiting, coded=self.writer.takes_codes)
            refused = self.writer.commit(rows, position=position, covers=covers, runs=runs)
            return _Committed(refused, time.monotonic() - started)

        return committed


class _Committed(NamedTuple):
    # The rows that the table refused and why, and how long it took, seconds.
    refused: list[tuple[int, str]]
    took_s: float


class _Commit(NamedTuple):
    # What is on its way into the tables, by table, and the position that they then have.
    position: int
    rows: dict[str, int]
    results: dict[str, Future[_Committed]]


class _Place(NamedTuple):
    # Where what comes out belongs: before this log position and, where a source gives again what was lost, this offset.
    end: int
    source: tuple[str, int] | None


class Session:
    """One life of a consumer: everything in here is rebuilt from snapshot, tables and log after a failure.

    Args:
        given: What it works with.

    Raises:
        TemporaryUnavailable: Log or store are away.
    """

    def __init__(self, given: Surroundings) -> None:
        self._given = given
        self._spec = given.spec
        self._settings = given.settings
        self._status = given.status
        saved = self._saved_state()
        self._reader = self._open(saved)
        if saved.position < self._reader.position and self._misses(saved):
            # State that stops before a hole would make wrong rows after it.
            saved = Snapshot()
        operators = self._spec.operators()
        self._ledger = Ledger((LOG_NODE, *(o.name for o in operators), STORE_NODE), self._spec.edges)
        self._flow = Flow(operators, self._ledger, take=self._store, at_work=self._say_at_work)
        self._operators = self._flow.operators
        self._to = _Place(0, None)
        self._covers = dict(saved.covers)
        self._stored = Counter(saved.stored)
        self._restore(saved)
        self._done = self._saved_at = self._reader.position
        # A table that nobody wrote to has no position either; it is opened when the first row for it comes.
        self._sinks = {
            name: _Sink(given, name, self._done)
            for name in sorted(given.store.written().intersection(self._spec.routes.values()))
        }
        # Sources that can wait go by this, and there may be nothing to read that would bring it about.
        self._status.position = self._done
        self._status.committed = max(self._status.committed, self._done)
        self._catch_up_to = max([self._done, *(s.version for s in self._sinks.values())])
        self._spans = Spans()
        self._over = False
        self._ts_known = 0
        self._waiting_since: float | None = None
        self._under_way: _Commit | None = None
        self._refused = False
        self._saved_time = time.monotonic()
        self._publish()

    def _report(self, message: str) -> None:
        LOG.warning("consumer %s: %s", self._spec.name, message)
        self._status.reports.append(message)

    def _saved_state(self) -> Snapshot:
        saved = read_snapshot(self._given.snapshot_path)
        if saved is None:
            return Snapshot()
        return saved

    def _restore(self, saved: Snapshot) -> None:
        same = saved.config == self._spec.config
        if same:
            self._ledger.restore(saved.ledger, saved.flow)
        for name, operator in self._operators.items():
            if name not in saved.operators:
                continue
            if same or (name in saved.versions and saved.versions[name] == self._spec.versions.get(name)):
                operator.restore(saved.operators[name])
            if not same:
                self._carry(name, saved.ledger.get(name, {}).get("in_flight", 0), operator.in_flight())
        if not same:
            for name in saved.operators.keys() - self._operators.keys():
                self._give_up(name, saved.ledger.get(name, {}).get("in_flight", 0))

    # Accounts belong to one configuration. What an operator holds over a change is on both sides of it.
    def _carry(self, name: str, held: int, kept: int) -> None:
        node = self._ledger[name]
        node.carried, node.in_flight, node.suppressed = held, kept, held - kept
        self._give_up(name, held - kept)

    def _give_up(self, name: str, events: int) -> None:
        if events:
            self._report(f"{events} events that {name} held are given up with its former configuration")

    def _misses(self, saved: Snapshot) -> bool:
        # A log that was lost begins above the snapshot too, but then sources give again what is not there. Where it
        # was trimmed it has had more of some source than the state has seen, and nobody gives that again.
        segments = list_segments(self._given.log_folder)
        had = sources_before(segments[0][1]) if segments else {}
        return any(offset > saved.covers.get(source_id, 0) for source_id, offset in had.items())

    def _open(self, saved: Snapshot) -> LogReader:
        folder, durable = self._given.log_folder, self._given.durable
        try:
            return LogReader(folder, saved.position, durable=durable, kinds=self._spec.kinds)
        except LogError as exc:
            if "first_seq" not in exc.details:
                raise
            # New consumers, and those that were not run for long, begin where the log does now.
            self._report(str(exc))
            return LogReader(folder, int(exc.details["first_seq"]), durable=durable, kinds=self._spec.kinds)

    def run(self) -> None:
        """Run until told to stop; what was taken in by then is committed.

        Raises:
            WriterConflict: Somebody else is this consumer.
            TemporaryUnavailable: The store did not take a commit.
        """
        self._status.state = "recovering" if self._done < self._catch_up_to else "running"
        try:
            while True:
                before = self._reader.position
                for record in self._reader.read():
                    self._take(record)
                    if self._over or self._given.abort.is_set():
                        break
                if self._done >= self._catch_up_to and self._status.state != "running":
                    self._status.state = "running"
                for problem in self._reader.problems:
                    self._report(problem)
                self._reader.problems.clear()
                if self._over or self._given.stopping(self._done):
                    break
                if self._is_due():
                    self._commit()
                if self._reader.position == before:
                    self._finish_commit()
                    self._save_if_due()
                    if self._waiting_since is None:
                        self._status.problem = ""
                    self._given.abort.wait(self._settings.poll_s)
            self._commit(save=True)
        finally:
            self._close()

    def _close(self) -> None:
        if self._under_way is not None:
            # Whoever begins again from the snapshot must not meet it.
            futures.wait(self._under_way.results.values())
        self._reader.close()

    def _is_due(self) -> bool:
        if self._waiting_since is None:
            return False
        if self._status.committed < self._given.awaited() <= self._done:
            return True
        s = self._settings
        return time.monotonic() - self._waiting_since >= min(max(s.commit_s, 4 * self._status.commit_s), s.commit_max_s)

    # From the log through the operators. Nothing of a span counts before its barrier is there: accounts, offsets and
    # state move together, so a commit or snapshot between two spans is always of one moment.

    def _take(self, record: Record) -> None:
        for span in self._spans.add(record):
            self._take_span(span)

    def _take_span(self, records: list[Record]) -> None:
        end = records[-1].end
        span: list[EventBatch] = []
        for taken in records:
            self._ts_known = max(self._ts_known, taken.ts_append)
            if taken.type is RecordType.MARK:
                self._take_mark(taken, span)
            elif taken.type is RecordType.CONTROL and taken.meta.get("a") == CONFIGURATION:
                self._over = self._over or self._given.ends_at(str(taken.meta.get("change", "")))
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
        for low, high in pairwise(edges):
            part = batch.with_data(batch.data.slice(low - start, high - low))
            self._run([part], record.end, source=(record.source_id, high))

    def _take_mark(self, record: Record, span: list[EventBatch]) -> None:
        mark = mark_of(record)
        given = bool(mark.source_id) and not record.meta.get("idle")
        if given and mark.offset <= self._covers.get(mark.source_id, 0):
            return
        again = given and any(s.had(record, mark.offset) for s in self._sinks.values())
        self._run(span, record.first_seq)
        if given:
            self._cover(mark.source_id, mark.offset)
        self._run([], record.end, source=(mark.source_id, mark.offset) if again else None, mark=mark)

    def _cover(self, source_id: str, offset: int) -> None:
        if source_id:
            self._covers[source_id] = offset
            for sink in self._sinks.values():
                sink.moved[source_id] = offset

    def _run(
        self,
        span: list[EventBatch],
        end: int,
        source: tuple[str, int] | None = None,
        mark: Mark | None = None,
    ) -> None:
        self._to = _Place(end, source)
        self._flow.run(span, end, self._ts_known, mark)
        span.clear()

    def _say_at_work(self, name: str, since: float) -> None:
        self._status.node = name
        if name:
            self._status.ts_node = since

    def _store(self, sender: str, port: str, batch: EventBatch) -> None:
        del sender, port
        to = self._to
        node = self._ledger[STORE_NODE]
        node.received += len(batch)
        name = self._spec.routes.get(batch.kind)
        if name is None:
            node.suppressed += len(batch)
            return
        sink = self._sink(name)
        again = to.source is not None and to.source[1] <= sink.covers.get(to.source[0], 0)
        # What the table has from before the restart, set aside included.
        dealt, refused = (len(batch), 0) if again else sink.put(batch, to.end)
        node.passed += dealt - refused
        node.failed += refused
        self._stored[name] += dealt - refused
        node.in_flight += len(batch) - dealt
        if sink.rows and self._waiting_since is None:
            self._waiting_since = time.monotonic()

    def _sink(self, name: str) -> _Sink:
        sink = self._sinks.get(name)
        if sink is None:
            sink = self._sinks[name] = _Sink(self._given, name, self._done)
            sink.moved = dict(self._covers)
        return sink

    # Into the tables.

    def _after_span(self) -> None:
        self._status.position = self._done
        if self._under_way is not None and all(result.done() for result in self._under_way.results.values()):
            self._finish_commit()
        if self._waiting_since is None and self._under_way is None:
            self._status.committed = self._done
        rows = sum(s.rows for s in self._sinks.values())
        size = sum(s.bytes for s in self._sinks.values())
        if rows >= self._settings.commit_rows or size >= self._settings.commit_bytes or self._is_due():
            self._commit()

    def _commit(self, *, save: bool = False) -> None:
        self._finish_commit()
        self._status.node, self._status.ts_node = STORE_NODE, time.time()
        reached(Step.POSITION_TAKEN)
        rows = {name: sink.rows for name, sink in self._sinks.items() if sink.rows}
        save = save or self._refused or time.monotonic() - self._saved_time >= self._settings.snapshot_s
        large = sum(rows.values()) >= self._settings.side_by_side_rows
        self._under_way = _Commit(self._done, rows, {})
        self._waiting_since = None
        for name in rows:
            self._under_way.results[name] = self._begun(name, aside=large)
        if save or not large:
            self._finish_commit()
        if save or self._refused:
            self._save()

    # Where there is much to sort and encode, tables do it side by side, and the log is read on meanwhile. They have a
    # transaction each, and know nothing of one another.
    def _begun(self, table: str, *, aside: bool) -> Future[_Committed]:
        result: Future[_Committed] = Future()
        work = partial(_fulfil, result, self._sinks[table].commit(self._done))
        if aside:
            # Not of a pool: those are waited for when the process ends, and storage may never answer.
            threading.Thread(target=work, name=f"commit-{self._spec.name}-{table}", daemon=True).start()
        else:
            work()
        return result

    def _finish_commit(self) -> None:
        commit = self._under_way
        if commit is None:
            return
        node, status = self._ledger[STORE_NODE], self._status
        status.node, status.ts_node = STORE_NODE, time.time()
        took_s = 0.0
        for name, result in commit.results.items():
            done = result.result()
            took_s = max(took_s, done.took_s)
            taken = commit.rows[name] - len(done.refused)
            node.passed += taken
            node.failed += len(done.refused)
            self._stored[name] += taken
            node.in_flight -= commit.rows[name]
            if done.refused:
                status.dead_letters += len(done.refused)
                self._report(f"{len(done.refused)} rows were refused and are dead letters now: {done.refused[0][1]}")
                # They may be replayed at once, and then nothing else tells what became of them.
                self._refused = True
        self._under_way = None
        status.committed = commit.position
        status.node = ""
        if commit.rows:
            status.commits += 1
            status.commit_s, status.ts_committed = took_s, time.time()
        self._publish()
        # Only now: a consumer that fails at every commit is no better for having begun again.
        status.problem = ""

    def _save_if_due(self) -> None:
        due = self._refused or time.monotonic() - self._saved_time >= self._settings.snapshot_s
        if due and self._waiting_since is None and self._done > self._saved_at:
            self._commit(save=True)

    def _save(self) -> None:
        if self._done == self._saved_at and self._status.snapshot == self._done:
            return
        states: dict[str, Any] = {name: o.snapshot() for name, o in self._operators.items()}
        write_snapshot(
            self._given.snapshot_path,
            Snapshot(
                position=self._done,
                covers=self._covers,
                operators=states,
                ledger=self._ledger.snapshot(),
                config=self._spec.config,
                versions=dict(self._spec.versions),
                flow=self._ledger.flow(),
                stored=dict(self._stored),
            ),
        )
        self._saved_at, self._saved_time, self._refused = self._done, time.monotonic(), False
        self._status.snapshot = self._done

    def _publish(self) -> None:
        self._given.publish(self._ledger)


def _fulfil(future: Future[_Committed], commit: Callable[[], _Committed]) -> None:
    try:
        future.set_result(commit())
    except BaseException as exc:  # noqa: BLE001  raised again by whoever asks for the result
        future.set_exception(exc)
