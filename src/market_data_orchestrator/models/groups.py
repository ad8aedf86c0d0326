"""The settings by what they are about: frozen views of `OrchestratorSettings`, which says what each means.

Nothing heavy is imported here: the worker that the launcher begins carries what the settings need.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr


class SettingsGroup(BaseModel):
    """Base of the groups: read from the attributes of the settings, and frozen."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


class RuntimeSettings(SettingsGroup):
    """How pipelines are run."""

    mode: str = Field(alias="runtime_mode")
    config: Path
    tenant_id: str
    workers: str
    bars: tuple[str, ...]
    bars_lateness_s: float = Field(alias="bars_lateness")
    drain_s: float = Field(alias="drain_sec")
    ws_interval_s: float = Field(alias="ws_interval_sec")
    query_timeout_s: float = Field(alias="query_timeout_sec")
    query_max_rows: int


class FeedbackSettings(SettingsGroup):
    """Who is told how far the store is behind."""

    enabled: bool = Field(alias="feedback_enabled")
    url: str = Field(alias="feedback_url")


class SecuritySettings(SettingsGroup):
    """Who may come in, how often, and what is recorded of it."""

    api_key: SecretStr
    api_keys_file: Path | None
    jwt_enabled: bool
    oidc_issuer: str
    oidc_audience: str
    oidc_client_id: str
    oidc_client_secret: SecretStr
    jwks_url: str
    jwt_role_claim: str
    jwt_cache_ttl_s: int = Field(alias="jwt_cache_ttl")
    jwt_refetch_s: float = Field(alias="jwt_refetch_sec")
    dual_auth: bool
    rate_limit_enabled: bool
    rate_limit_max_per_minute: int
    redis_rate_limit_url: str
    audit_log_enabled: bool
    audit_log_path: Path
    audit_required: bool
    public_url: str
    cors_origins: tuple[str, ...]
    tls_cert: Path | None
    tls_key: Path | None


class ProviderSettings(SettingsGroup):
    """Where market data comes from."""

    name: str = Field(alias="provider")
    symbols: tuple[str, ...]
    host: str = Field(alias="provider_host")
    port: int = Field(alias="provider_port")
    client_id: int = Field(alias="provider_client_id")
    rate_events_s: float = Field(alias="provider_rate")
    backfill: str


class InfrastructureSettings(SettingsGroup):
    """Where things are kept and served, and who else there is."""

    data_dir: Path | None
    log_url: str
    store_url: str
    health_host: str
    health_port: int
    log_level: str
    log_format: str
    log_fsync: bool
    log_retention_s: float = Field(alias="log_retention")
    log_max_bytes: int | None
    log_reserve_bytes: int
    maintenance_s: float = Field(alias="maintenance_sec")
    cluster_id: str
    region: str
    node_id: str
    federation_peers: tuple[str, ...]
    federation_token: SecretStr
    federation_timeout_s: float = Field(alias="federation_timeout_sec")
    federation_directory: str
