"""The ledger: every event accounted for, node by node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any

from market_data_core.protocols import Result


@dataclass(slots=True)
class NodeCounts:
    """What one node of a pipeline has done with what it was handed, in events.

    ``received = passed + absorbed + filtered + duplicate + late + suppressed + quarantined + failed + in_flight``.
    Every figure is counted or measured where it happens; none is derived from the others.

    Attributes:
        received: Handed to the node.
        passed: Handed on, or stored.
        absorbed: Gone into a derived row that is out.
        filtered, duplicate, late, suppressed, quarantined, failed: Went no further, by cause.
        emitted: Derived rows, which were not received.
        in_flight: Held inside now, measured.
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

    @property
    def unaccounted(self) -> int:
        """Events received that nothing accounts for; anything but 0 is an alert."""
        return self.received - (
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
        self.passed += sum(len(batch) for batch in result.out) - result.emitted
        self.emitted += result.emitted
        self.absorbed += result.absorbed
        self.filtered += result.filtered
        self.duplicate += result.duplicate
        self.late += result.late
        self.suppressed += result.suppressed
        self.quarantined += result.quarantined
        self.failed += result.failed


class Ledger:
    """The accounts of one consumer: its nodes in the order events pass them."""

    def __init__(self, nodes: tuple[str, ...]) -> None:
        self.nodes: dict[str, NodeCounts] = {name: NodeCounts() for name in nodes}

    def __getitem__(self, node: str) -> NodeCounts:
        return self.nodes[node]

    @property
    def unaccounted(self) -> int:
        """Events that some node received and does not account for, plus events lost between two nodes."""
        names = list(self.nodes)
        inside = sum(abs(self.nodes[n].unaccounted) for n in names)
        between = 0
        for sender, receiver in pairwise(names):
            sent = self.nodes[sender].passed + self.nodes[sender].emitted
            between += abs(sent - self.nodes[receiver].received)
        return inside + between

    def snapshot(self) -> dict[str, dict[str, int]]:
        """Return all counts by node."""
        return {name: asdict(counts) for name, counts in self.nodes.items()}

    def restore(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Take up what `snapshot` gave; nodes it does not know begin at 0."""
        known = {f.name for f in fields(NodeCounts)}
        for name in self.nodes:
            counts = state.get(name, {})
            self.nodes[name] = NodeCounts(**{k: int(v) for k, v in counts.items() if k in known})
