"""The ledger: every event accounted for, node by node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any

from market_data_core.protocols import Result


@dataclass(slots=True)
class NodeCounts:
    """What one node of a pipeline has done with what it was handed, in events.

    ``carried + received = passed + absorbed + filtered + duplicate + late + suppressed + quarantined + failed +
    in_flight``.
    Every figure is counted or measured where it happens; none is derived from the others.

    Attributes:
        received: Handed to the node.
        passed: Handed on, or stored.
        absorbed: Gone into a derived row that is out.
        filtered, duplicate, late, suppressed, quarantined, failed: Went no further, by cause.
        emitted: Derived rows, which were not received.
        in_flight: Held inside now, measured.
        carried: Held inside already when these accounts began, with the configuration that they belong to.
    """

    received: int = 0
    passed: int = 0
    absorbed: int = 0
    filtered: int = 0
    duplicate: int = 0
    late: int = 0
    suppressed: int = 0
    quarantined: int = 0
    failed: int = 0
    emitted: int = 0
    in_flight: int = 0
    carried: int = 0

    @property
    def unaccounted(self) -> int:
        """Events received that nothing accounts for; anything but 0 is an alert."""
        return (self.carried + self.received) - (
            self.passed
            + self.absorbed
            + self.filtered
            + self.duplicate
            + self.late
            + self.suppressed
            + self.quarantined
            + self.failed
            + self.in_flight
        )

    def take(self, result: Result) -> None:
        """Add what an operator says it did."""
        ported = sum(len(batch) for batches in result.ports.values() for batch in batches)
        self.passed += sum(len(batch) for batch in result.out) + ported - result.emitted
        self.emitted += result.emitted
        self.absorbed += result.absorbed
        self.filtered += result.filtered
        self.duplicate += result.duplicate
        self.late += result.late
        self.suppressed += result.suppressed
        self.quarantined += result.quarantined
        self.failed += result.failed


@dataclass(frozen=True, slots=True, order=True)
class Edge:
    """A way from one node to the next.

    Attributes:
        sender: The node that gives.
        port: Which of its outputs; empty for the one that every node has.
        receiver: The node that takes.
    """

    sender: str
    port: str
    receiver: str


class Ledger:
    """The accounts of one consumer: its nodes, and what went from one to the next.

    Args:
        nodes: In an order in which every node stands behind those it takes from.
        edges: The ways between them; empty for a chain in the order of the nodes.
    """

    def __init__(self, nodes: Sequence[str], edges: Iterable[Edge] = ()) -> None:
        self.nodes: dict[str, NodeCounts] = {name: NodeCounts() for name in nodes}
        self.edges = tuple(edges)
        self.sent: dict[tuple[str, str], int] = {(e.sender, e.port): 0 for e in self.edges}
        """Of a graph: how many events each output gave, by node and port."""

    def __getitem__(self, node: str) -> NodeCounts:
        return self.nodes[node]

    @property
    def unaccounted(self) -> int:
        """Events that some node received and does not account for, plus events lost between two nodes."""
        inside = sum(abs(counts.unaccounted) for counts in self.nodes.values())
        return inside + (self._lost_in_graph() if self.edges else self._lost_in_chain())

    def _lost_in_chain(self) -> int:
        lost = 0
        for sender, receiver in pairwise(self.nodes.values()):
            lost += abs(sender.passed + sender.emitted - receiver.received)
        return lost

    def _lost_in_graph(self) -> int:
        given: Counter[str] = Counter()
        arrived: Counter[str] = Counter()
        for (sender, _), rows in self.sent.items():
            given[sender] += rows
        for edge in self.edges:
            arrived[edge.receiver] += self.sent[edge.sender, edge.port]
        lost = sum(abs(self.nodes[n].passed + self.nodes[n].emitted - rows) for n, rows in given.items())
        return lost + sum(abs(self.nodes[n].received - rows) for n, rows in arrived.items())

    def snapshot(self) -> dict[str, dict[str, int]]:
        """Return all counts by node."""
        return {name: asdict(counts) for name, counts in self.nodes.items()}

    def flow(self) -> list[list[Any]]:
        """Return the edges of a graph as ``[sender, port, receiver, events]``; none for a chain."""
        return [[e.sender, e.port, e.receiver, self.sent[e.sender, e.port]] for e in self.edges]

    def restore(self, state: Mapping[str, Mapping[str, Any]], flow: Iterable[Sequence[Any]] = ()) -> None:
        """Take up what `snapshot` and `flow` gave; nodes and edges they do not know begin at 0."""
        known = {f.name for f in fields(NodeCounts)}
        for name in self.nodes:
            counts = state.get(name, {})
            self.nodes[name] = NodeCounts(**{k: int(v) for k, v in counts.items() if k in known})
        for sender, port, _, rows in flow:
            if (sender, port) in self.sent:
                self.sent[sender, port] = int(rows)

    @classmethod
    def restored(cls, state: Mapping[str, Mapping[str, Any]], flow: Iterable[Sequence[Any]] = ()) -> Ledger:
        """Return the ledger that gave `snapshot` and `flow`."""
        flow = list(flow)
        ledger = cls(tuple(state), [Edge(sender, port, receiver) for sender, port, receiver, _ in flow])
        ledger.restore(state, flow)
        return ledger
