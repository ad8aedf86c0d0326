"""What the parts of the platform tell each other about how they are.

JSON names are exactly the field names. `ts` is in seconds since the epoch, UTC. Unknown fields in what another version
sent are passed over, so peers need not be upgraded together.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

HealthState = Literal["healthy", "degraded", "unhealthy"]
"""How something is; `degraded` still serves."""


class TelemetryModel(BaseModel):
    """Base of the messages of this module: frozen, and without NaN, which JSON cannot carry."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class BackpressureLevel(StrEnum):
    """How full a queue is."""

    OK = "ok"
    SOFT = "soft"
    HARD = "hard"


class FeedbackEvent(TelemetryModel):
    """A write coordinator says how full its queue is.

    Attributes:
        coordinator_id: Who speaks.
        queue_size: Items waiting.
        capacity: Items that fit.
        level: What the watermarks make of it.
        source: The kind of component that speaks.
        ts: Seconds since the epoch, UTC.
        reason: Why now, for people; None when the level speaks for itself.
    """

    coordinator_id: str
    queue_size: int = Field(ge=0)
    capacity: int = Field(gt=0)
    level: BackpressureLevel
    source: str = "store"
    ts: float
    reason: str | None = None


class RateAdjustment(TelemetryModel):
    """A provider is to run at a part of its full rate.

    Attributes:
        provider: Name of the provider.
        scale: Part of the full rate, 0 (stop) to 1 (full).
        reason: The level that asked for it.
        ts: Seconds since the epoch, UTC.
    """

    provider: str
    scale: float = Field(ge=0.0, le=1.0)
    reason: BackpressureLevel
    ts: float


class HealthComponent(TelemetryModel):
    """How one part of a service is.

    Attributes:
        name: The part, such as ``store``.
        state: How it is.
        detail: One sentence for people, or None.
        details: Facts by name, free of secrets.
    """

    name: str
    state: HealthState
    detail: str | None = None
    details: dict[str, str] = Field(default_factory=dict)


class HealthStatus(TelemetryModel):
    """How a service is.

    Attributes:
        service: Name of the service.
        state: How it is as a whole.
        components: How its parts are.
        version: Version of the service.
        ts: Seconds since the epoch, UTC.
    """

    service: str
    state: HealthState
    components: list[HealthComponent] = Field(default_factory=list)
    version: str
    ts: float


class Probe(TelemetryModel):
    """The answer to a liveness or readiness question.

    Attributes:
        probe_type: Which question.
        passed: The answer.
        message: What is not right, or None.
    """

    probe_type: Literal["liveness", "readiness"]
    passed: bool
    message: str | None = None


class Labels(TelemetryModel):
    """Labels of a metric.

    Attributes:
        values: Label values by label name.
    """

    values: dict[str, str] = Field(default_factory=dict)


class MetricPoint(TelemetryModel):
    """One value of a metric.

    Attributes:
        name: The metric; carries its unit, as in ``request_duration_seconds``.
        value: Finite.
        labels: What the value is of.
        ts: Seconds since the epoch, UTC.
    """

    name: str
    value: float
    labels: Labels = Field(default_factory=Labels)
    ts: float


class MetricSeries(TelemetryModel):
    """Values of one metric over time.

    Attributes:
        name: The metric.
        points: In the order they were taken.
    """

    name: str
    points: list[MetricPoint] = Field(default_factory=list)


class ControlAction(StrEnum):
    """What an operator can ask for."""

    PAUSE = "pause"
    RESUME = "resume"
    RELOAD = "reload"


class ControlResult(TelemetryModel):
    """What came of a control action.

    Attributes:
        status: ``ok`` only if all of it was done.
        detail: One sentence for people, or None.
    """

    status: Literal["ok", "error"]
    detail: str | None = None


class AuditEnvelope(TelemetryModel):
    """Who did what, and what came of it.

    Attributes:
        actor: Who asked.
        role: In which role.
        action: What was asked for.
        result: What came of it.
        ts: Seconds since the epoch, UTC.
    """

    actor: str
    role: str
    action: ControlAction
    result: ControlResult
    ts: float
