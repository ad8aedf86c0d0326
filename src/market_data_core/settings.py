"""Settings as values: what is wired to what, and what the core's users can tune.

Nothing here reads the environment unless `CoreSettings.from_env` is called; defaults are safe for production.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from market_data_core.errors import ConfigurationError


class SettingsModel(BaseModel):
    """Base of all settings: frozen, and strict about names, so that a misspelt one is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


class ProviderConfig(SettingsModel):
    """One provider as it is to be started."""

    name: str = Field(min_length=1, description="Name it is registered under.")
    params: dict[str, Any] = Field(default_factory=dict, description="Arguments of its class by name.")


class SinkConfig(SettingsModel):
    """One sink as it is to be started."""

    name: str = Field(min_length=1, description="Name it is registered under.")
    params: dict[str, Any] = Field(default_factory=dict, description="Arguments of its class by name.")


class WiringPlan(SettingsModel):
    """Which providers feed which sinks: every provider all of them."""

    providers: list[ProviderConfig] = Field(default_factory=list, description="Providers to start.")
    sinks: list[SinkConfig] = Field(default_factory=list, description="Sinks to start.")


class CompositeSettings(SettingsModel):
    """The settings of all parts in one place; each part checks its own."""

    pipeline: dict[str, Any] = Field(default_factory=dict, description="Settings of the pipeline by name.")
    store: dict[str, Any] = Field(default_factory=dict, description="Settings of the store by name.")
    orchestrator: dict[str, Any] = Field(default_factory=dict, description="Settings of the orchestrator by name.")
    auth: dict[str, Any] = Field(default_factory=dict, description="Settings of authentication by name.")
    federation: dict[str, Any] = Field(default_factory=dict, description="Settings of federation by name.")


class QueueSettings(SettingsModel):
    """A bounded queue and its watermarks."""

    capacity_items: int = Field(default=10_000, gt=0, description="Items that fit.")
    soft_ratio: float = Field(
        default=0.7, gt=0, le=1, description="Part of the capacity, 0 to 1, from which sources run at half their rate."
    )
    hard_ratio: float = Field(
        default=0.9, gt=0, le=1, description="Part of the capacity, 0 to 1, from which sources that can wait stop."
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.soft_ratio > self.hard_ratio:
            raise ValueError(f"soft_ratio {self.soft_ratio} is above hard_ratio {self.hard_ratio}")
        return self


class BatchSettings(SettingsModel):
    """When a batch is full; whichever comes first."""

    max_rows: int = Field(default=1000, gt=0, description="Rows in a batch.")
    max_delay_s: float = Field(default=5.0, gt=0, description="Seconds that the first row of a batch waits at most.")
    max_size_bytes: int = Field(default=1024 * 1024, gt=0, description="Bytes in a batch.")


class PoolSettings(SettingsModel):
    """Connections to a database."""

    min_connections: int = Field(default=1, ge=0, description="Connections kept open.")
    max_connections: int = Field(default=10, gt=0, description="Connections open at most.")
    acquire_timeout_s: float = Field(default=10.0, gt=0, description="Seconds to wait for a free connection.")
    max_idle_s: float = Field(default=300.0, gt=0, description="Seconds after which an idle connection is closed.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min_connections > self.max_connections:
            raise ValueError(f"min_connections {self.min_connections} is above max_connections {self.max_connections}")
        return self


class WebSocketSettings(SettingsModel):
    """WebSocket clients, each on its own."""

    max_queue_messages: int = Field(default=100, gt=0, description="Messages that wait for one slow client.")
    max_messages_per_s: float = Field(default=0.0, ge=0, description="Messages a second to one client; 0 is no cap.")
    heartbeat_interval_s: float = Field(default=30.0, gt=0, description="Seconds between two heartbeats.")


class PacingSettings(SettingsModel):
    """What a provider may be asked, and how often.

    The defaults are Interactive Brokers' rules for historical data.
    """

    max_requests: int = Field(default=60, gt=0, description="Requests within one window.")
    window_s: float = Field(default=600.0, gt=0, description="Length of the window in seconds.")
    max_concurrent_requests: int = Field(default=50, gt=0, description="Requests open at the same time.")
    cooldown_s: float = Field(default=600.0, ge=0, description="Seconds of rest after the provider has complained.")


def _symbols(value: Any) -> Any:
    entries = value.split(",") if isinstance(value, str) else value
    if not isinstance(entries, list | tuple) or not all(isinstance(e, str) for e in entries):
        raise ValueError("give a list of symbols, or one string with commas between them")
    # One subscription per symbol, in the order given.
    return list(dict.fromkeys(e.strip().upper() for e in entries if e.strip()))


_SCHEMES: Final = ("postgresql", "postgres", "file", "s3")


# The message must not repeat any part of the address: a password can stand in any of them.
def _checked_address(value: SecretStr) -> SecretStr:
    try:
        parts = urlsplit(value.get_secret_value())
        parts.port  # noqa: B018  reading it is what checks it
    except ValueError:
        raise ValueError("the address cannot be parsed") from None
    if "://" in value.get_secret_value() and parts.scheme not in _SCHEMES:
        raise ValueError(f"the scheme must be one of {', '.join(_SCHEMES)}")
    return value


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_upper)]

_VARIABLES: Final = {
    "MARKET_DATA_WATCHLIST": "watchlist",
    "MARKET_DATA_PROVIDER": "provider",
    "DATABASE_URL": "database_url",
    "METRICS_PORT": "metrics_port",
    "LOG_LEVEL": "log_level",
    "TELEMETRY_ENABLED": "telemetry_enabled",
    "IBKR_HOST": "ibkr_host",
    "IBKR_PORT": "ibkr_port",
    "IBKR_CLIENT_ID": "ibkr_client_id",
    "IBKR_MARKET_DATA_TYPE": "ibkr_market_data_type",
}


class CoreSettings(SettingsModel):
    """What every user of the core can set."""

    watchlist: Annotated[list[str], BeforeValidator(_symbols)] = Field(
        default_factory=list,
        description="Symbols to watch, as a list or with commas between; upper-cased, each once, empty ones dropped.",
    )
    provider: str = Field(default="synthetic", min_length=1, description="Name of the provider to use.")
    database_url: Annotated[SecretStr, AfterValidator(_checked_address)] | None = Field(
        default=None, description="Where stored data lies: postgresql://, file://, s3:// or a folder; None is not set."
    )
    metrics_port: int = Field(default=9090, ge=0, le=65_535, description="TCP port metrics are served on; 0 is none.")
    log_level: LogLevel = Field(default="INFO", description="The least severe level that is logged.")
    telemetry_enabled: bool = Field(default=True, description="Whether metrics and feedback are given out.")
    ibkr_host: str = Field(default="127.0.0.1", min_length=1, description="Host of TWS or IB Gateway.")
    ibkr_port: int = Field(default=7497, ge=1, le=65_535, description="TCP port of TWS or IB Gateway.")
    ibkr_client_id: int = Field(default=1, ge=0, description="Client id; one connection each.")
    ibkr_market_data_type: int = Field(
        default=1, ge=1, le=4, description="1 live, 2 frozen, 3 delayed, 4 delayed and frozen."
    )
    queue: QueueSettings = Field(default_factory=QueueSettings, description="Queues in front of sinks.")
    batch: BatchSettings = Field(default_factory=BatchSettings, description="Batches handed to sinks.")
    pool: PoolSettings = Field(default_factory=PoolSettings, description="Connections to the database.")
    websocket: WebSocketSettings = Field(default_factory=WebSocketSettings, description="WebSocket clients.")
    pacing: PacingSettings = Field(default_factory=PacingSettings, description="Requests to the provider.")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Build the settings from environment variables; what is not set, or empty, keeps its default.

        Reads ``MARKET_DATA_WATCHLIST``, ``MARKET_DATA_PROVIDER``, ``DATABASE_URL``, ``METRICS_PORT``, ``LOG_LEVEL``,
        ``TELEMETRY_ENABLED``, ``IBKR_HOST``, ``IBKR_PORT``, ``IBKR_CLIENT_ID`` and ``IBKR_MARKET_DATA_TYPE``.

        Args:
            environ: Where to read; the process's environment if None.

        Raises:
            ConfigurationError: Values are wrong; names each with its variable, ``DATABASE_URL`` without its value.
        """
        source = os.environ if environ is None else environ
        given = {field: source[name].strip() for name, field in _VARIABLES.items() if source.get(name, "").strip()}
        try:
            return cls.model_validate(given)
        except ValidationError as exc:
            names = {field: name for name, field in _VARIABLES.items()}
            problems: list[str] = []
            for error in exc.errors(include_url=False, include_input=False, include_context=False):
                field = str(error["loc"][0])
                shown = "" if field == "database_url" else f"={given[field]!r}"
                problems.append(f"{names[field]}{shown}: {error['msg']}")
            # The cause holds the values it was given, secrets among them, so it is not shown with the error.
            raise ConfigurationError(f"environment: {'; '.join(problems)}") from None
