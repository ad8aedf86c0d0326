"""From barrier to barrier: how operators are run over what the log holds, whoever takes what comes out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise

import pyarrow as pa

from market_data_core.batch import EventBatch
from market_data_core.errors import MarketDataError, TransformError
from market_data_core.protocols import Mark, Operator, Result
from market_data_core.schemas import Kind
from market_data_pipeline.consumers.ledger import Edge, Ledger
from market_data_pipeline.consumers.model import LOG_NODE, STORE_NODE
from market_data_pipeline.log import Record

_LARGE_ROWS = 4096
Taker = Callable[[str, str, EventBatch], None]
"""Takes what arrives at `STORE_NODE`: from which node, by which of its outputs, and the rows."""


class Spans:
    """Gathers records into spans, which end at barriers."""

    def __init__(self) -> None:
        self._records: list[Record] = []

    def add(self, record: Record) -> Iterator[list[Record]]:
        """Take the log's next record and give the spans that are whole now, in order."""
        if self._records and record.first_seq > self._records[-1].end:
            # The barrier that stood here is lost, with the log behind it or to damage. What came before it must not
            # get the end of a later one.
            yield self._cut()
        self._records.append(record)
        if record.barrier:
            yield self._cut()

    def _cut(self) -> list[Record]:
        records, self._records = self._records, []
        return records


class Flow:
    """Operators, the ways between them, and the accounts of what goes along.

    Args:
        operators: Each behind those it takes from.
        ledger: Where everything is counted. Its edges are the ways, from `LOG_NODE` to `STORE_NODE`; without any, the
            operators are a chain, in which what an operator does not work on goes past it.
        take: Takes what arrives at the end.
        at_work: Told which operator is at work and since when, in seconds since the epoch; an empty name says none.
    """

    def __init__(
        self,
        operators: Iterable[Operator],
        ledger: Ledger,
        *,
        take: Taker,
        at_work: Callable[[str, float], None] | None = None,
    ) -> None:
        self.operators: dict[str, Operator] = {o.name: o for o in operators}
        self.ledger = ledger
        self._take = take
        self._at_work = at_work or (lambda _name, _since: None)
        self._ways: dict[tuple[str, str], list[str]] = {}
        for edge in ledger.edges or chain(self.operators):
            self._ways.setdefault((edge.sender, edge.port), []).append(edge.receiver)

    def run(self, span: Sequence[EventBatch], end: int, ts_known_ns: int, mark: Mark | None = None) -> None:
        """Run everything over events in log order, up to a barrier.

        Args:
            span: The events.
            end: Exclusive end position of the span.
            ts_known_ns: Latest receive time up to there, UTC nanoseconds since the epoch.
            mark: Punctuation that stands behind the events.

        Raises:
            TransformError: An operator failed; names it.
        """
        for batch in joined(span):
            self._send(LOG_NODE, "", [batch])
        for name, operator in self.operators.items():
            if mark is not None:
                # What a mark closes reaches the next operator before the mark itself: behind the end of a source its
                # rows would come from nowhere, and wait for ever.
                operator.advance(mark)
            self._give(name, self._call(name, partial(operator.barrier, end, ts_known_ns)))
        self._at_work("", 0.0)

    def _send(self, sender: str, port: str, batches: list[EventBatch]) -> None:
        ways = self._ways.get((sender, port))
        if self.ledger.edges and batches:
            rows = sum(len(b) for b in batches)
            if ways is None:
                # Nobody asked for this output.
                node = self.ledger[sender]
                node.passed -= rows
                node.suppressed += rows
                return
            self.ledger.sent[sender, port] += rows
        for batch in batches:
            for receiver in ways or ():
                if receiver == STORE_NODE:
                    self._take(sender, port, batch)
                else:
                    self._arrive(receiver, batch)

    def _arrive(self, name: str, batch: EventBatch) -> None:
        operator, node = self.operators[name], self.ledger[name]
        node.received += len(batch)
        if batch.kind in operator.kinds:
            self._give(name, self._call(name, partial(operator.process, batch)))
        elif self.ledger.edges and batch.kind not in operator.gives(frozenset({batch.kind})):
            node.suppressed += len(batch)
        else:
            node.passed += len(batch)
            self._send(name, "", [batch])

    def _give(self, name: str, result: Result) -> None:
        node = self.ledger[name]
        node.take(result)
        node.in_flight = self.operators[name].in_flight()
        self._send(name, "", result.out)
        for port, batches in result.ports.items():
            self._send(name, port, batches)

    def _call(self, name: str, work: Callable[[], Result]) -> Result:
        # Who looks on sees where a consumer is and since when, and an error says which operator it came from.
        self._at_work(name, time.time())
        try:
            return work()
        except (MarketDataError, MemoryError):
            raise
        except Exception as exc:
            raise TransformError(f"operator {name} failed: {type(exc).__name__}: {exc}") from exc


def chain(names: Iterable[str]) -> tuple[Edge, ...]:
    """Return the ways of a chain: from the log through the nodes, in this order, to the store."""
    return tuple(Edge(sender, "", receiver) for sender, receiver in pairwise((LOG_NODE, *names, STORE_NODE)))


def mark_of(record: Record) -> Mark:
    """Return the punctuation that a record of type ``MARK`` holds."""
    meta = record.meta
    return Mark(
        vendor=str(meta["v"]),
        ts_ns=int(meta["t"]),
        symbols=tuple(meta.get("y", ())),
        source_id=record.source_id,
        offset=record.offset,
    )


def joined(span: Sequence[EventBatch]) -> Sequence[EventBatch]:
    """Return the events of a span with the rows of one kind and source together, in the order of their firsts.

    Small batches become one: an operator call costs the same for ten rows as for a thousand. Joining large ones costs
    more than the calls it saves.
    """
    if len(span) < 2:
        return span
    groups: dict[tuple[Kind, str, str], list[EventBatch]] = {}
    for batch in span:
        groups.setdefault((batch.kind, str(batch.origin), batch.source_id), []).append(batch)
    return [batch for group in groups.values() for batch in _merged(group)]


def _merged(group: list[EventBatch]) -> list[EventBatch]:
    if len(group) == 1 or sum(map(len, group)) >= _LARGE_ROWS * len(group):
        return group
    return [group[-1].with_data(pa.concat_batches([b.data for b in group]))]
