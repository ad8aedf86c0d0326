"""The settings of ingestion control served alone: some of the platform's own, under the same names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from market_data_core.errors import ConfigurationError


class IngestServiceSettings(BaseSettings):
    """What an operator can set."""

    model_config = SettingsConfigDict(env_prefix="ORCH_", env_file=".env", extra="ignore", frozen=True)

    data_dir: Path | None = Field(
        default=None,
        description="Where log, lake and state are kept; ./data, or ./data/demo for the synthetic provider.",
    )
    provider: str = Field(default="synthetic", description="Decides where data is kept unless DATA_DIR says so.")
    config: Path = Field(
        default=Path("configs/platform.yaml"),
        description="Beside it are data_providers.yaml and ingestion_policy.yaml.",
    )
    tenant_id: str = Field(default="default", pattern=r"^[A-Za-z0-9_-]{1,64}$", description="Whose tables are written.")
    store_url: str = Field(
        default="", description="The store, a folder or postgresql://...; the folder lake in DATA_DIR when empty."
    )
    log_fsync: bool = Field(default=True, description="False gives up durability against power loss for speed.")
    drain_sec: float = Field(default=10.0, ge=0, description="How long a stop may take to store what was received.")
    api_key: SecretStr = Field(default=SecretStr(""), description="Admin key; empty makes one at the first start.")
    api_keys_file: Path | None = Field(
        default=None, description="File of hashed keys; api-keys.jsonl in DATA_DIR when empty."
    )

    @field_validator("data_dir", "api_keys_file", mode="before")
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        return None if value == "" else value

    @property
    def data_path(self) -> Path:
        """Where everything is kept."""
        if self.data_dir is not None:
            return self.data_dir
        return Path("data/demo") if self.provider == "synthetic" else Path("data")

    @property
    def keys_path(self) -> Path:
        """Where hashed keys are kept."""
        return self.api_keys_file or self.data_path / "api-keys.jsonl"


def load_ingest_settings(**overrides: Any) -> IngestServiceSettings:
    """Read the settings from environment and ``.env``; `overrides` win over both.

    Raises:
        ConfigurationError: A value is wrong; names every wrong variable, and no secret.
    """
    try:
        return IngestServiceSettings(**overrides)
    except ValidationError as exc:
        said = "; ".join(f"ORCH_{str(e['loc'][0]).upper()}: {e['msg']}" for e in exc.errors(include_input=False))
        raise ConfigurationError(f"wrong settings: {said}") from None
