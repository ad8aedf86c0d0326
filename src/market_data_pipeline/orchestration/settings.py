"""How a runtime is set up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from market_data_core.settings import SettingsModel
from market_data_pipeline.pipeline import PipelineSpec


class PipelineSettings(SettingsModel):
    """What a pipeline is that is described by less than a whole `PipelineSpec`."""

    tenant_id: str = Field(default="default", description="Whose data it is.")
    source: str = Field(default="synthetic", min_length=1, description="Provider it reads.")
    operator: str | None = Field(default="bars", description="Named operator, or None for nothing.")
    sink: str = Field(default="store", min_length=1, description="Named sink.")
    batch_size: int = Field(default=500, gt=0, description="Values in a batch for the sink.")
    flush_ms: float = Field(default=1000, ge=0, description="Milliseconds that a batch waits to be full.")
    data_dir: Path = Field(default=Path("data"), description="Folder of the sink store.")

    def spec(self, given: dict[str, Any]) -> PipelineSpec:
        """Return the pipeline that `given`, fields of `PipelineSpec`, describes together with these.

        Raises:
            ConfigurationError: A field is wrong.
            TypeError: A field is unknown, or `pipeline_id` is not given.
        """
        return PipelineSpec(**{**dict(self), **given})


class PacingFigures(SettingsModel):
    """What a provider may be asked, as `RateCoordinator.register_provider` takes it."""

    capacity: float = Field(default=60, ge=1, description="Requests that may go at once after a rest.")
    refill_rate: float = Field(default=60, gt=0, description="Requests per second that come on top.")
    cooldown_sec: float = Field(default=600, ge=0, description="Seconds of rest after the provider has complained.")


class ProviderSettings(SettingsModel):
    """One provider a runtime reads. Names that are not of these are taken for `params`."""

    enabled: bool = Field(default=True, description="Whether it is used.")
    symbols: list[str] | None = Field(default=None, description="Symbols where the caller names none.")
    pacing: PacingFigures = Field(default_factory=PacingFigures, description="What it may be asked, and how often.")
    params: dict[str, Any] = Field(default_factory=dict, description="Arguments of its class by name.")

    @model_validator(mode="before")
    @classmethod
    def _gather_params(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        own = {name: value for name, value in given.items() if name in cls.model_fields}
        rest = {name: value for name, value in given.items() if name not in cls.model_fields}
        return {**own, "params": {**own.get("params", {}), **rest}} if rest else own


class PipelineRuntimeSettings(SettingsModel):
    """What a `PipelineRuntime` reads and how much it runs."""

    pipeline: PipelineSettings = Field(
        default_factory=PipelineSettings, description="What pipelines are that say less than everything."
    )
    orchestration_enabled: bool = Field(
        default=True, description="Whether quotes come through a router over all providers, or from the first alone."
    )
    max_concurrent_pipelines: int = Field(default=10, ge=1, description="Pipelines that run at the same time.")
    enable_rate_coordination: bool = Field(default=True, description="Whether providers' budgets are kept.")
    circuit_breaker_threshold: int = Field(default=5, ge=1, description="Failures in a row that open a breaker.")
    circuit_breaker_timeout_sec: float = Field(default=60.0, ge=0, description="Seconds a breaker stays open.")
    router_strategy: str = Field(default="first", description="first, round_robin or latency.")
    providers: dict[str, ProviderSettings] = Field(
        default_factory=lambda: {"synthetic": ProviderSettings()},
        description="Providers by name, in order of preference.",
    )
