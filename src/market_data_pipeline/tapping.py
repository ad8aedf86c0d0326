"""Looking at what leaves a node of a graph, live, without asking whoever runs the graph."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from market_data_core.batch import EventBatch
from market_data_core.clock import Clock, SystemClock
from market_data_core.errors import ConfigurationError, LogError
from market_data_core.protocols import END_OF_TIME_NS, Operator
from market_data_core.schemas import Kind
from market_data_pipeline.consumers.ledger import Edge, Ledger
from market_data_pipeline.consumers.model import CONFIGURATION, LOG_NODE, STORE_NODE
from market_data_pipeline.consumers.spans import Flow, Spans, mark_of
from market_data_pipeline.dag import GraphSpec, NodeSpec, catalogue, let_through
from market_data_pipeline.dag.problems import nearest
from market_data_pipeline.log import LogReader, Record, RecordType, read_durable
from market_data_pipeline.log.frames import NUMBERED
from market_data_pipeline.log.segments import Damage, list_segments, walk
from market_data_pipeline.operators.entrance import EVENT_KINDS, Entrance

LOG = logging.getLogger(__name__)
POLL_S = 0.02
"""How often the log is looked at while nothing comes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TappedSpan:
    """What left a node in one span of the log.

    Attributes:
        end: Exclusive end position of the span.
        batches: By which output, empty for the default one, and the rows; in the order they left.
    """

    end: int
    batches: tuple[tuple[str, EventBatch], ...]

    @property
    def rows(self) -> int:
        """How many events left."""
        return sum(len(batch) for _, batch in self.batches)


class GraphTap:
    """Runs the part of a graph that feeds a node over the log, in this process, and gives what leaves the node.

    The log is read as far as it is durable and never locked, so the tap works beside a running service and without
    one, and disturbs neither. Spans and their order are those of a consumer. Of a source, what leaves is what it lets
    into the graph; of a sink, what it is given to store.

    State begins empty, so the first rows may differ from those of a consumer that has run for longer, and nothing
    marks them: a bar whose interval had begun holds only what came since, repeats of what came before are no repeats,
    and joins know no earlier quote. Late events make no revisions of bars, because stored ticks are not read. What a
    source gives again after the log was lost, comes again.

    Args:
        graph: Checked already, with its secrets.
        node: Which node.
        log_folder: The log.
        port: Which of its outputs, empty for the default one; None for all.
        start: Where to begin; None for what is logged from now on. A position that the log no longer holds means
            where it begins now.

    Attributes:
        ports: The outputs that are looked at.
        ledger: The accounts of what went through.
        problems: One sentence for everything that was not as it should be; whoever reads them may clear them.

    Raises:
        ConfigurationError: There is no such node or output, with the nearest names; or an operator cannot be made.
        LogError: The log cannot be read.
    """

    def __init__(
        self, graph: GraphSpec, node: str, *, log_folder: Path, port: str | None = None, start: int | None = None
    ) -> None:
        names = [n.name for n in graph.nodes]
        if node not in names:
            raise ConfigurationError(f"the graph has no node {node!r}; {nearest(node, names)}")
        self._node = node
        self._part = graph.upstream(node)
        self._folder = log_folder
        self._kinds = frozenset[Kind]().union(*(let_through(n) for n in self._part.of("source")))
        self.problems: list[str] = []
        self._left: list[tuple[str, EventBatch]] = []
        operators = self._operators()
        target = graph.node(node)
        self._wanted = let_through(target) if target.role == "sink" else EVENT_KINDS
        self.ports = _outputs(target, operators, port)
        self._edges = _edges(self._part, target, self.ports)
        self._begin(read_durable(log_folder) if start is None else start, operators)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the log; may be called twice."""
        self._reader.close()

    @property
    def position(self) -> int:
        """Exclusive end of what has been read."""
        return self._reader.position

    @property
    def durable_end(self) -> int:
        """Exclusive end of what there is to read."""
        return read_durable(self._folder)

    @property
    def ts_append(self) -> int:
        """When the newest record read was appended, UTC nanoseconds since the epoch; 0 before the first."""
        return self._ts_known

    def _operators(self) -> list[Operator]:
        # As a consumer of the graph would have them, those behind the node left out.
        return [_operator(n) for n in self._part.topological() if n.role != "sink"]

    def _begin(self, position: int, operators: list[Operator]) -> None:
        self._spans = Spans()
        self._ts_known = 0
        self.ledger = Ledger((LOG_NODE, *(o.name for o in operators), STORE_NODE), self._edges)
        self._flow = Flow(operators, self.ledger, take=self._leave)
        try:
            self._reader = LogReader(self._folder, position, kinds=self._kinds)
        except LogError as exc:
            if "first_seq" not in exc.details:
                raise
            self.problems.append(str(exc))
            self._reader = LogReader(self._folder, int(exc.details["first_seq"]), kinds=self._kinds)

    def _begin_anew(self, position: int, why: str) -> None:
        # State that stops before a hole would make wrong rows after it.
        self.problems.append(f"{why}; the tap begins anew at seq {position}, with empty state")
        self._reader.close()
        self._begin(position, self._operators())

    def read(self, max_rows: int = 1 << 16) -> Iterator[TappedSpan]:
        """Give what left the node in the spans that are in the log by now, at most about `max_rows` logged rows.

        Never waits. Spans in which nothing left are passed over; `position` moves all the same.

        Raises:
            LogError: The log cannot be read.
            TransformError: An operator failed; names it.
        """
        if 0 < self.durable_end < self._reader.position:
            self._begin_anew(self.durable_end, "this log is not the one it was")
        try:
            for record in self._reader.read(max_rows):
                for span in self._spans.add(record):
                    self._run(span)
                    if self._left:
                        batches, self._left = tuple(self._left), []
                        yield TappedSpan(end=span[-1].end, batches=batches)
        except LogError as exc:
            if "first_seq" not in exc.details:
                raise
            self._begin_anew(int(exc.details["first_seq"]), str(exc))
        self.problems += self._reader.problems
        self._reader.problems.clear()

    def _run(self, records: list[Record]) -> None:
        span: list[EventBatch] = []
        for record in records:
            self._ts_known = max(self._ts_known, record.ts_append)
            if record.type is RecordType.MARK:
                self._flow.run(span, record.first_seq, self._ts_known)
                self._flow.run([], record.end, self._ts_known, mark_of(record))
                span = []
            elif record.type is RecordType.CONTROL and record.meta.get("a") == CONFIGURATION:
                self._compare(record)
            elif record.type is RecordType.EVENTS and record.kind in self._kinds:
                self._take_events(record, span)
        self._flow.run(span, records[-1].end, self._ts_known)

    def _compare(self, record: Record) -> None:
        # Secrets are masked on record, so they are left out of it here too.
        text = str(record.meta.get("graph", ""))
        try:
            same = not text or GraphSpec.from_json(text).upstream(self._node).version == self._masked().version
        except ConfigurationError:
            same = False  # the node is gone
        if not same:
            self.problems.append(
                f"from seq {record.end} on {self._node} is configured otherwise; the tap goes on as it began"
            )

    def _masked(self) -> GraphSpec:
        return GraphSpec.from_json(self._part.to_json())

    def _take_events(self, record: Record, span: list[EventBatch]) -> None:
        node = self.ledger[LOG_NODE]
        node.received += record.count
        if record.corrupt:
            node.failed += record.count
            self.problems.append(
                f"{record.count} {record.kind} from seq {record.first_seq} are damaged in the log and lost"
            )
            return
        node.passed += record.count
        span.append(record.events(self._reader.instruments))

    def _leave(self, sender: str, port: str, batch: EventBatch) -> None:
        del sender
        node = self.ledger[STORE_NODE]
        node.received += len(batch)
        if batch.kind not in self._wanted:
            node.suppressed += len(batch)
            return
        node.passed += len(batch)
        # What enters a sink left another node by that output.
        self._left.append((port if port in self.ports else "", batch))


async def tap_graph(
    graph: GraphSpec,
    node: str,
    *,
    log_folder: Path,
    port: str | None = None,
    start: int | None = None,
    clock: Clock | None = None,
    poll_s: float = POLL_S,
) -> AsyncGenerator[EventBatch, None]:
    """Give the events that leave a node as they are logged, without end; see `GraphTap` for what they are.

    Operators run on the caller's event loop, span by span. Problems are logged as warnings.

    Args:
        graph: Checked already, with its secrets.
        node: Which node.
        log_folder: The log.
        port: Which of its outputs, empty for the default one; None for all.
        start: Where to begin; None for what is logged from now on.
        clock: Waits while nothing comes.
        poll_s: How often the log is looked at while nothing comes.

    Raises:
        ConfigurationError: There is no such node or output, with the nearest names; or an operator cannot be made.
        LogError: The log cannot be read.
        TransformError: An operator failed; names it.
    """
    clock = clock or SystemClock()
    with GraphTap(graph, node, log_folder=log_folder, port=port, start=start) as tap:
        while True:
            before = tap.position
            for span in tap.read():
                for _, batch in span.batches:
                    yield batch
                await asyncio.sleep(0)
            for problem in tap.problems:
                LOG.warning("tap of %s: %s", node, problem)
            tap.problems.clear()
            if tap.position == before:
                await clock.sleep(poll_s)


def position_at(log_folder: Path, ts_ns: int) -> int:
    """Return the position of the first thing that was logged at a time or later; the durable end where nothing was.

    Args:
        log_folder: The log.
        ts_ns: By the time of its appending, UTC nanoseconds since the epoch.

    Raises:
        OSError: The log cannot be read.
    """
    durable, segments = read_durable(log_folder), list_segments(log_folder)
    # What is wanted lies in the newest segment that was begun before that time, or behind it.
    newest_first = range(len(segments) - 1, 0, -1)
    first = next((i for i in newest_first if _begun_ns(segments[i][1]) < ts_ns), 0)
    for _, path in segments[first:]:
        try:
            for found in walk(path, check=False):
                if not isinstance(found, Damage) and found[1].type in NUMBERED and found[1].ts_append >= ts_ns:
                    return min(found[1].first_seq, durable)
        except FileNotFoundError:
            continue  # trimmed since it was listed
    return durable


def _begun_ns(path: Path) -> int:
    try:
        for found in walk(path, check=False):
            return END_OF_TIME_NS if isinstance(found, Damage) else found[1].ts_append
    except FileNotFoundError:
        return 0
    return END_OF_TIME_NS


def _operator(node: NodeSpec) -> Operator:
    if node.name in (LOG_NODE, STORE_NODE):
        raise ConfigurationError(f"{node.where}: no {node.role} may be called {LOG_NODE} or {STORE_NODE}")
    if node.role == "source":
        return Entrance(
            **{k: node.params[k] for k in ("kinds", "symbols", "vendors") if k in node.params}, name=node.name
        )
    return catalogue.build(node)


def _outputs(target: NodeSpec, operators: Sequence[Operator], port: str | None) -> tuple[str, ...]:
    # All others of the part lie before its node, so that one is the last.
    named = tuple(getattr(operators[-1], "ports", ())) if target.role == "operator" else ()
    if port is None:
        return ("", *named)
    if port and port not in named:
        there = nearest(port, named) if named else "it has the default output only"
        raise ConfigurationError(f"{target.role} {target.name!r} has no output {port!r}; {there}")
    return (port,)


def _edges(part: GraphSpec, target: NodeSpec, ports: Iterable[str]) -> tuple[Edge, ...]:
    edges = [Edge(LOG_NODE, "", n.name) for n in part.of("source")]
    if target.role == "sink":
        edges += [Edge(e.sender, e.port, STORE_NODE if e.receiver == target.name else e.receiver) for e in part.edges]
    else:
        edges += [Edge(e.sender, e.port, e.receiver) for e in part.edges]
        edges += [Edge(target.name, port, STORE_NODE) for port in ports]
    return tuple(edges)
