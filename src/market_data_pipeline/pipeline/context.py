"""Who runs a pipeline, and by which clock."""

from __future__ import annotations

from dataclasses import dataclass, field

from market_data_core.clock import Clock, SystemClock


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineContext:
    """What every part of a running pipeline may know.

    Attributes:
        tenant_id: Whose data it is.
        pipeline_id: Names the pipeline in errors, logs and results.
        clock: Stamps arrivals and times batches and durations.
    """

    tenant_id: str = "default"
    pipeline_id: str = "pipeline"
    clock: Clock = field(default_factory=SystemClock)
