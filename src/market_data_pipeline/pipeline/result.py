"""What came of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from market_data_pipeline.consumers.ledger import Ledger

EndedBy = Literal["", "source", "duration", "stop", "failure"]
Counts = dict[str, dict[str, int]]
"""By node, the fields of `NodeCounts`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineResult:
    """What a pipeline has done so far; after `run`, what the run came to.

    Attributes:
        tenant_id: Whose.
        pipeline_id: Which.
        ended_by: ``source`` (it had no more), ``duration``, ``stop`` or ``failure``; empty before the end.
        received: Events taken from the source in this run.
        written: Values, or rows, that the sink took in this run.
        elapsed_s: From start to end, by the pipeline's clock.
        unaccounted: Events that no account explains; anything but 0 is an error of ours.
        ledger: Every node's counts.
    """

    tenant_id: str
    pipeline_id: str
    ended_by: EndedBy
    received: int
    written: int
    elapsed_s: float
    unaccounted: int
    ledger: Counts = field(repr=False)


def unaccounted(counts: Mapping[str, Mapping[str, int]]) -> int:
    """Return the events that a chain of nodes, given in order, does not account for."""
    ledger = Ledger(tuple(counts))
    ledger.restore(counts)
    return ledger.unaccounted
