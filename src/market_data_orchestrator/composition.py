"""From settings to parts: the one place that knows which parts there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from market_data_core import plugins
from market_data_core.errors import ConfigurationError
from market_data_core.protocols import BatchSource
from market_data_orchestrator.settings import OrchestratorSettings
from market_data_pipeline.engine import EngineSettings
from market_data_pipeline.log import LogSettings
from market_data_pipeline.pipelines import BarsConfig


def engine_settings(settings: OrchestratorSettings, *, consumers: str | None = None) -> EngineSettings:
    """Return the data path's settings for the service's."""
    if settings.log_url and "://" in settings.log_url and not settings.log_url.startswith("file://"):
        raise ConfigurationError(f"ORCH_LOG_URL: {settings.log_url} is not a folder; the log is kept in files")
    lateness_ns = int(settings.bars_lateness * 1_000_000_000)
    return EngineSettings(
        data_dir=settings.data_path,
        log_folder=Path(settings.log_url.removeprefix("file://")) if settings.log_url else None,
        store_root=settings.store_root,
        tenant=settings.tenant_id,
        bars=tuple(BarsConfig(interval=i, allowed_lateness_ns=lateness_ns) for i in settings.bars),
        consumers="thread" if (consumers or settings.workers) == "thread" else "process",
        log=LogSettings(
            fsync=settings.log_fsync,
            retention_s=settings.log_retention,
            max_bytes=settings.log_max_bytes,
            reserve_bytes=settings.log_reserve_bytes,
        ),
        maintenance_s=settings.maintenance_sec,
    )


def make_source(settings: OrchestratorSettings) -> BatchSource:
    """Make the configured provider's source.

    Raises:
        RegistryError: There is no such provider.
        ConfigurationError: It does not take what it is given.
    """
    made = plugins.load(plugins.PROVIDERS, settings.provider)
    arguments: dict[str, Any] = {"symbols": settings.symbols} if settings.symbols else {}
    if settings.provider == "synthetic":
        arguments["rate"] = settings.provider_rate
    source = made(**arguments)
    if not isinstance(source, BatchSource):
        raise ConfigurationError(f"provider {settings.provider!r} gives no batches of events")
    return source
