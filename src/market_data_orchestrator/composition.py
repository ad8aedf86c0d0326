"""From settings and configuration to parts: the one place that knows which parts there are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from market_data_core import plugins
from market_data_core.addresses import is_postgres
from market_data_core.batch import SourceBatch
from market_data_core.errors import ConfigurationError, RegistryError
from market_data_core.protocols import BatchSource, Gap, Mark
from market_data_core.schemas import Origin
from market_data_orchestrator.config import PlatformConfig, ProviderEntry, load_platform
from market_data_orchestrator.settings import OrchestratorSettings, load_settings
from market_data_pipeline.capture import CaptureSettings
from market_data_pipeline.compiler import SinkDef
from market_data_pipeline.engine import EngineSettings
from market_data_pipeline.log import LogSettings

_UNHURRIED = CaptureSettings(lag_rows=1 << 62, lag_rows_hard=1 << 62)
"""Sources that can wait are never slowed."""


def load(**overrides: Any) -> tuple[OrchestratorSettings, PlatformConfig]:
    """Return settings and configuration of the environment, with what the command line says.

    Raises:
        ConfigurationError: Something is wrong with either; names everything that is.
    """
    settings = load_settings(**overrides)
    config = load_platform(settings=settings)
    return config.applied_to(settings), config


def engine_settings(
    settings: OrchestratorSettings, config: PlatformConfig | None = None, *, consumers: str | None = None
) -> EngineSettings:
    """Return the data path's settings for the service's.

    Args:
        settings: With the configuration applied.
        config: What runs; read anew if None.
        consumers: ``thread`` whatever the settings say.
    """
    config = config or load_platform(settings=settings)
    return EngineSettings(
        data_dir=settings.data_path,
        log_folder=log_folder(settings),
        store=store_of(settings),
        store_root=settings.store_root,
        tenant=settings.tenant_id,
        graph=config.graph.to_json(reveal=True),
        sinks=sinks_of(config),
        vendors=vendors_of(config),
        consumers="thread" if (consumers or settings.workers) == "thread" else "process",
        log=LogSettings(
            fsync=settings.log_fsync,
            retention_s=settings.log_retention,
            max_bytes=settings.log_max_bytes,
            reserve_bytes=settings.log_reserve_bytes,
        ),
        capture=CaptureSettings() if settings.feedback_enabled else _UNHURRIED,
        maintenance_s=settings.maintenance_sec,
    )


def store_of(settings: OrchestratorSettings) -> str:
    """Return the name of the entry point of the store that the settings' address names."""
    return "postgres" if is_postgres(settings.store_root) else "store"


def log_folder(settings: OrchestratorSettings) -> Path:
    """Return where the log is kept.

    Raises:
        ConfigurationError: It is not a folder.
    """
    if not settings.log_url:
        return settings.data_path / "log"
    if "://" in settings.log_url and not settings.log_url.startswith("file://"):
        raise ConfigurationError(f"ORCH_LOG_URL: {settings.log_url} is not a folder; the log is kept in files")
    return Path(settings.log_url.removeprefix("file://"))


def sinks_of(config: PlatformConfig) -> dict[str, SinkDef]:
    """Return what the configured sinks stand for, by name."""
    return {entry.name: SinkDef(sink=entry.sink, params=dict(entry.params)) for entry in config.sinks}


def vendors_of(config: PlatformConfig) -> dict[str, tuple[str, ...]]:
    """Return whose events the configured providers give, by name; those that do not say are not in it."""
    found = {}
    for entry in config.enabled:
        vendors = getattr(plugins.load(plugins.PROVIDERS, entry.provider), "vendors", None)
        if isinstance(vendors, tuple):
            found[entry.name] = vendors
    return found


def make_source(entry: ProviderEntry) -> BatchSource:
    """Make a configured provider's source, called by the entry's name.

    Raises:
        ConfigurationError: There is no such provider, or it does not take what it is given.
    """
    try:
        made = plugins.load(plugins.PROVIDERS, entry.provider)
    except RegistryError as exc:
        raise ConfigurationError(f"providers.{entry.name}: {exc}") from exc
    source = made(**entry.arguments(made))
    if not isinstance(source, BatchSource):
        raise ConfigurationError(f"providers.{entry.name}: {entry.provider!r} gives no batches of events")
    return source if source.name == entry.name else _Named(source, entry.name)


class _Named:
    # Two entries may be of one provider; status, gaps and metrics tell them apart by the entry's name.
    def __init__(self, source: BatchSource, name: str) -> None:
        self._source = source
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._source, attribute)

    @property
    def name(self) -> str:
        return self._name

    @property
    def origin(self) -> Origin:
        return self._source.origin

    @property
    def waits(self) -> bool:
        return self._source.waits

    def batches(self, resume: Mapping[str, int]) -> AsyncIterator[SourceBatch | Mark | Gap]:
        return self._source.batches(resume)

    async def close(self) -> None:
        await self._source.close()
