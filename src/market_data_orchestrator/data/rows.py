"""What the data routes answer with."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

_NS = "UTC nanoseconds since the epoch"


class BarRow(BaseModel):
    """One bar, in its newest revision."""

    vendor: str
    symbol: str
    ts_event: int = Field(description=f"Its start, {_NS}.")
    ts_recv: int = Field(description=_NS)
    seq: int
    flags: int
    origin: str
    interval: str
    what: str
    session: str
    source: str = Field(description="`internal` for bars made here, `external` for bars received.")
    open: float | None
    high: float | None
    low: float | None
    close: float | None
    volume: float | None
    vwap: float | None
    trade_count: int | None
    revision: int | None
    ts_known: int | None = Field(description=f"When this revision was made, {_NS}.")
    reason: str | None


class QuarantineRow(BaseModel):
    """Something that could not be stored as what it was meant to be."""

    vendor: str | None
    symbol: str | None
    ts_event: int = Field(description=_NS)
    ts_recv: int = Field(description=_NS)
    seq: int
    flags: int
    origin: str | None
    kind: str | None = Field(description="What it would have been.")
    source_id: str | None
    line: int | None
    reason: str | None
    raw: str | None = Field(description="As it came, or its beginning.")


class Extent(BaseModel):
    """How much there is of an instrument in one table."""

    rows: int = Field(description="Of a keyed table, every version counts.")
    first_ts: int = Field(description=_NS)
    last_ts: int = Field(description=_NS)


class InstrumentRow(BaseModel):
    """One instrument of one vendor, and what is stored of it."""

    vendor: str
    symbol: str
    tables: dict[str, Extent] = Field(description="By table.")


class CoverageRow(BaseModel):
    """How much there is of one instrument on one UTC date."""

    vendor: str | None
    symbol: str | None
    date: str
    rows: int
    first_ts: int = Field(description=_NS)
    last_ts: int = Field(description=_NS)


class GapRow(BaseModel):
    """A stretch of time for which data is known to be missing."""

    id: int
    vendor: str
    symbol: str = Field(description="`*` for all.")
    kind: str = Field(description="`*` for all.")
    from_ns: int = Field(description=f"First moment without data, {_NS}.")
    to_ns: int | None = Field(description=f"First moment with data again, {_NS}; null while it goes on.")
    cause: str
    state: str
    detail: str


class BudgetRow(BaseModel):
    """How often a provider may still be asked."""

    provider: str
    tokens: float = Field(description="Requests that could go at once.")
    capacity: float = Field(description="Most that can gather.")
    refill_rate: float = Field(description="Per second, at full rate.")
    scale: float = Field(description="Part of the full rate it runs at, 0 to 1.")
    waiting: int
    breaker: str
    cooldowns: dict[str, float] = Field(description="Seconds left by scope; the empty one is the whole provider's.")


class PlanAnswer(BaseModel):
    """What runs, and what a reload would change now."""

    configuration: dict[str, Any] = Field(description="What runs, secrets masked.")
    changes: list[dict[str, Any]]
    untouched: list[str] = Field(description="Consumers that would go on as they are.")
    restart: list[str] = Field(description="What would take effect at the next start only.")
    problem: str | None = Field(description="Why a reload would be refused; null if it would not.")


class QueryRequest(BaseModel):
    """One SELECT."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sql: str = Field(min_length=1, max_length=100_000, description="One SELECT, SHOW TABLES or DESCRIBE.")
    limit: int | None = Field(None, ge=1, description="Most rows; never more than ORCH_QUERY_MAX_ROWS.")
    timeout_s: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Most seconds; never more than ORCH_QUERY_TIMEOUT_SEC."
    )


class Column(BaseModel):
    """One column of a result."""

    name: str
    type: str = Field(description="Its Arrow type; int64 times are UTC nanoseconds.")


class QueryAnswer(BaseModel):
    """What a query gave."""

    columns: list[Column]
    rows: list[list[Any]]
    truncated: bool = Field(description="There were more rows than the limits let through.")
    elapsed_s: float


class BackfillRequest(BaseModel):
    """Which gap to fill."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gap_id: int = Field(ge=1, lt=1 << 63, description="As `/gaps` names it.")


class BackfillAnswer(BaseModel):
    """The job that fills it."""

    job_id: int
    state: str
    gap_id: int
    provider: str
