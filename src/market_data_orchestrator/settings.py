"""The service's settings: environment variables with the prefix ``ORCH_``, a ``.env`` file, and defaults."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic import ValidationError as PydanticValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from market_data_core.addresses import check_store
from market_data_core.errors import ConfigurationError
from market_data_orchestrator.models.groups import (
    FeedbackSettings,
    InfrastructureSettings,
    ProviderSettings,
    RuntimeSettings,
    SecuritySettings,
)

KEYS_FILE = "api-keys.jsonl"
_STATE_FILE = "state.db"
_SIZE = re.compile(r"(\d+)\s*([KMGT]?)(?:I?B)?", re.IGNORECASE)
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([SMHD]?)", re.IGNORECASE)
_SIZE_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SPAN_UNITS = {"": 1, "S": 1, "M": 60, "H": 3600, "D": 86400}


def _csv(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


class OrchestratorSettings(BaseSettings):
    """Everything an operator can set."""

    model_config = SettingsConfigDict(env_prefix="ORCH_", env_file=".env", extra="ignore", frozen=True)

    api_key: SecretStr = Field(SecretStr(""), description="Admin key; empty makes one at the first start.")
    runtime_mode: Literal["dag", "streaming", "batch"] = Field("dag", description="How pipelines are run.")
    feedback_url: str = Field("memory://", description="Feedback bus: memory:// or redis://host:port/db.")
    feedback_enabled: bool = Field(
        default=True, description="Slow down sources that can wait when the store falls behind."
    )
    provider: str = Field("synthetic", description="Where market data comes from: a market_data.providers entry point.")
    symbols: Annotated[list[str], NoDecode] = Field(
        default_factory=list, description="What to subscribe to, comma-separated; empty for the provider's own."
    )
    provider_host: str = Field("127.0.0.1", description="Address of the provider's gateway.")
    provider_port: int = Field(7497, ge=1, le=65535, description="Its port.")
    provider_client_id: int = Field(1, ge=0, description="The client id to connect with.")
    provider_rate: float = Field(1000.0, ge=0, description="Events per second of the synthetic provider.")
    data_dir: Path | None = Field(
        None, description="Where log, lake and state are kept; ./data, or ./data/demo for the synthetic provider."
    )
    log_url: str = Field("", description="The event log; the folder log in DATA_DIR when empty.")
    store_url: str = Field(
        "",
        description="A folder, s3://bucket/prefix or postgresql://...; the folder lake in DATA_DIR when empty.",
    )
    tenant_id: str = Field(
        "default", pattern=r"^[A-Za-z0-9_-]{1,64}$", description="Whose tables are written and read."
    )
    bars: Annotated[list[str], NoDecode] = Field(
        default_factory=lambda: ["1m"], description="Intervals of bars made from trades, comma-separated."
    )
    bars_lateness: float = Field(
        0.0, description="How long a bar waits for stragglers, in event time: seconds, or 5s, 1m."
    )
    workers: Literal["process", "thread"] = Field(
        "process", description="Consumers in a process of their own, or in threads of the service."
    )
    health_host: str = Field("127.0.0.1", description="Address to serve on; containers set 0.0.0.0.")
    health_port: int = Field(8080, ge=0, le=65535, description="Port to serve on; 0 takes a free one.")
    ws_interval_sec: float = Field(2.0, gt=0, description="Seconds between messages on /ws/status.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = Field("INFO", description="What is logged.")
    log_format: Literal["json", "text"] = Field("json", description="How it is logged.")
    log_fsync: bool = Field(default=True, description="False gives up durability against power loss for speed.")
    log_retention: float = Field(86400.0, description="How long the log is kept: seconds, or 30m, 24h, 7d.")
    log_max_bytes: int | None = Field(None, description="Largest size of the log: bytes, or 512M, 20G; empty for none.")
    log_reserve_bytes: int = Field(64 << 20, description="Disk space the log leaves free for commits and state.")
    drain_sec: float = Field(10.0, ge=0, description="How long a stop may take to store what was received.")
    maintenance_sec: float = Field(60.0, ge=0, description="Seconds between store maintenance runs; 0 for never.")
    query_timeout_sec: float = Field(30.0, gt=0, description="How long a query may take.")
    query_max_rows: int = Field(100_000, ge=1, description="How many rows a query may return.")
    jwt_enabled: bool = Field(default=False, description="Accept tokens of an OpenID provider.")
    oidc_issuer: str = Field("", description="Its issuer URL.")
    oidc_audience: str = Field("market-data-orchestrator", description="The audience its tokens must name.")
    oidc_client_id: str = Field("", description="Client id for browser login.")
    oidc_client_secret: SecretStr = Field(SecretStr(""), description="Client secret for browser login.")
    jwks_url: str = Field("", description="Where its keys are.")
    jwt_role_claim: str = Field("roles", description="Which claim names the role.")
    jwt_cache_ttl: int = Field(3600, ge=0, description="Seconds its keys are kept.")
    jwt_refetch_sec: float = Field(
        10.0,
        gt=0,
        allow_inf_nan=False,
        description="Least time between two attempts to fetch its keys, whoever invents key ids.",
    )
    dual_auth: bool = Field(default=True, description="Accept keys beside tokens.")
    redis_rate_limit_url: str = Field("", description="Shared rate limits; in this process when empty.")
    rate_limit_enabled: bool = Field(default=True, description="Limit control actions.")
    rate_limit_max_per_minute: int = Field(5, ge=1, description="Control actions per minute, action and actor.")
    audit_log_path: Path = Field(Path("logs/audit.jsonl"), description="The audit file.")
    audit_log_enabled: bool = Field(default=True, description="Keep the audit file.")
    audit_required: bool = Field(default=False, description="Refuse actions that cannot be audited.")
    api_keys_file: Path | None = Field(None, description="File of hashed keys.")
    federation_peers: Annotated[list[str], NoDecode] = Field(
        default_factory=list, description="Other orchestrators: name=url or URLs, comma-separated."
    )
    backfill: str = Field(
        "auto",
        pattern="^(auto|manual)$",
        description="Fill gaps that are over from their provider's history: auto at once, manual when asked to.",
    )
    federation_token: SecretStr = Field(SecretStr(""), description="Service token towards peers.")
    federation_timeout_sec: float = Field(
        10.0, gt=0, allow_inf_nan=False, description="How long a peer may take to answer what it is asked for a caller."
    )
    federation_directory: str = Field(
        "static",
        pattern=r"^(static|rediss?://.+)$",
        description="How peers are known to be well: static asks each one's /health; redis://host:port/db reads the "
        "heartbeats that all nodes of the cluster leave there, and leaves ours. Only configured peers are ever called.",
    )
    cluster_id: str = Field("default", min_length=1, description="Name of the cluster.")
    region: str = Field("local", min_length=1, description="Name of the region.")
    node_id: str = Field("orchestrator-local", min_length=1, description="Name of this node.")
    config: Path = Field(Path("configs/platform.yaml"), description="The platform's configuration.")
    public_url: str = Field("", description="The URL users reach the service by.")
    cors_origins: Annotated[list[str], NoDecode] = Field(
        default_factory=list, description="Origins of pages that may call the service, comma-separated."
    )
    tls_cert: Path | None = Field(None, description="Certificate to serve with.")
    tls_key: Path | None = Field(None, description="Its key.")

    @field_validator("symbols", mode="before")
    @classmethod
    def _symbols(cls, value: Any) -> Any:
        return [str(s).upper() for s in _csv(value)] if value else []

    @field_validator("bars", "federation_peers", "cors_origins", mode="before")
    @classmethod
    def _lists(cls, value: Any) -> Any:
        return _csv(value)

    @field_validator("log_retention", "bars_lateness", mode="before")
    @classmethod
    def _spans(cls, value: Any) -> Any:
        match = _SPAN.fullmatch(value.strip()) if isinstance(value, str) else None
        return float(match[1]) * _SPAN_UNITS[match[2].upper()] if match else value

    @field_validator("log_max_bytes", "log_reserve_bytes", mode="before")
    @classmethod
    def _sizes(cls, value: Any) -> Any:
        if value == "":
            return None
        match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
        return int(match[1]) * _SIZE_UNITS[match[2].upper()] if match else value

    @field_validator("data_dir", "api_keys_file", "tls_cert", "tls_key", mode="before")
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        return None if value == "" else value

    @property
    def runtime(self) -> RuntimeSettings:
        """How pipelines are run."""
        return RuntimeSettings.model_validate(self)

    @property
    def feedback(self) -> FeedbackSettings:
        """Who is told how far the store is behind."""
        return FeedbackSettings.model_validate(self)

    @property
    def security(self) -> SecuritySettings:
        """Who may come in, how often, and what is recorded of it."""
        return SecuritySettings.model_validate(self)

    @property
    def provider_group(self) -> ProviderSettings:
        """Where market data comes from; `provider` alone is its name."""
        return ProviderSettings.model_validate(self)

    @property
    def infrastructure(self) -> InfrastructureSettings:
        """Where things are kept and served, and who else there is."""
        return InfrastructureSettings.model_validate(self)

    @field_validator("store_url")
    @classmethod
    def _check_store(cls, value: str) -> str:
        if value:
            try:
                check_store(value)
            except ConfigurationError as exc:
                raise ValueError(str(exc)) from None
        return value

    @property
    def data_path(self) -> Path:
        """Where log, lake and state are kept."""
        if self.data_dir is not None:
            return self.data_dir
        return Path("data/demo") if self.provider == "synthetic" else Path("data")

    @property
    def state_path(self) -> Path:
        """Where pause, gaps, jobs, sessions and the like are kept."""
        return self.data_path / _STATE_FILE

    @property
    def keys_path(self) -> Path:
        """Where the keys are kept."""
        return self.api_keys_file or self.data_path / KEYS_FILE

    @property
    def store_root(self) -> str:
        """Where the store is."""
        return self.store_url or str(self.data_path / "lake")


def load_settings(**overrides: Any) -> OrchestratorSettings:
    """Read the settings; `overrides` (from the command line, None meaning not given) win over everything else.

    Raises:
        ConfigurationError: A value is wrong; names every wrong variable, and no secret.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return OrchestratorSettings(**given)
    except PydanticValidationError as exc:
        wrong = "; ".join(
            f"ORCH_{'_'.join(str(p) for p in e['loc'][:1]).upper()}: {e['msg']}"
            for e in exc.errors(include_input=False)
        )
        raise ConfigurationError(f"wrong settings: {wrong}") from None
