"""What ingestion control tells Prometheus."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from market_data_core.web import precreate

STOP_REASONS: Final = ("operator_request", "auto_duration_reached", "source_ended", "source_failed", "shutdown")
ERROR_STAGES: Final = ("create_source", "start_source", "stop_source", "read", "resume", "state", "store_sync")
SUPPRESSED_REASONS: Final = ("dry_run", "write_path_disabled")


class IngestMetrics:
    """The families of ingestion control.

    Args:
        registry: Where they are registered.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.active = Gauge("ingest_active", "1 while the provider is read.", ["provider"], registry=registry)
        self.starts = Counter("ingest_starts", "Runs started, resumed ones too.", ["provider"], registry=registry)
        self.stops = Counter("ingest_stops", "Runs ended, by cause.", ["provider", "reason"], registry=registry)
        self.errors = Counter("ingest_errors", "What went wrong, by stage.", ["provider", "stage"], registry=registry)
        self.suppressed = Counter(
            "ingest_writes_suppressed", "Events read and not written, by cause.", ["reason"], registry=registry
        )
        precreate(self.suppressed, reason=SUPPRESSED_REASONS)

    def know(self, providers: Collection[str]) -> None:
        """Make the series of these providers exist, at zero."""
        precreate(self.active, provider=providers)
        precreate(self.starts, provider=providers)
        precreate(self.stops, provider=providers, reason=STOP_REASONS)
        precreate(self.errors, provider=providers, stage=ERROR_STAGES)
