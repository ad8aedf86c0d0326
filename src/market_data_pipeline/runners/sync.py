"""Telling others that new data is in the store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from market_data_core.clock import NS_PER_SECOND, Clock
from market_data_core.protocols import FeedbackPublisher
from market_data_core.telemetry import BackpressureLevel, FeedbackEvent
from market_data_pipeline.capture import SourceStatus
from market_data_pipeline.runners.metrics import IngestMetrics
from market_data_pipeline.runners.policy import StoreSyncPolicy

if TYPE_CHECKING:
    import httpx

LOG = logging.getLogger(__name__)

_OVER = frozenset({"done", "failed", "stopped"})


class StoreSync:
    """Sends a notice when more of what a provider gave is in the store.

    A notice names the log position up to which everything of the provider is stored. Nobody is told every one: the
    newest stands for those before it, one that could not be sent as well.

    Args:
        policy: What holds now.
        bus: The feedback bus; None where there is none.
        stored_to: Says to what position everything is stored; None where what is logged counts as stored.
        metrics: Where failures are counted.
        clock: Times the notices.
    """

    def __init__(
        self,
        *,
        policy: Callable[[], StoreSyncPolicy],
        bus: FeedbackPublisher | None,
        stored_to: Callable[[], int] | None,
        metrics: IngestMetrics,
        clock: Clock,
    ) -> None:
        self._policy = policy
        self._bus = bus
        self._stored_to = stored_to
        self._metrics = metrics
        self._clock = clock
        self._followed: dict[str, tuple[SourceStatus, int]] = {}

    def follow(self, provider: str, status: SourceStatus) -> None:
        """Speak of what this source gives from now on, also after it has ended, until all of it is stored."""
        self._followed[provider] = (status, 0)

    async def run(self) -> None:
        """Send notices until cancelled."""
        while not self._followed:
            await self._clock.sleep(self._policy().interval_seconds)
        import httpx  # noqa: PLC0415  a large library, for those who follow something

        async with httpx.AsyncClient(trust_env=False, follow_redirects=False) as client:
            while True:
                await self._clock.sleep(self._policy().interval_seconds)
                for provider in list(self._followed):
                    await self._look(provider, client)

    async def _look(self, provider: str, client: httpx.AsyncClient) -> None:
        status, told = self._followed[provider]
        over, end = status.state in _OVER, status.end
        stored = end if self._stored_to is None else min(end, self._stored_to())
        if stored > told:
            if not await self._tell(provider, status, stored, client):
                return  # the next notice says this too
            if self._followed.get(provider, (None,))[0] is status:
                self._followed[provider] = (status, stored)
        if over and stored >= end and self._followed.get(provider, (None,))[0] is status:
            del self._followed[provider]

    async def _tell(self, provider: str, status: SourceStatus, stored: int, client: httpx.AsyncClient) -> bool:
        policy = self._policy()
        try:
            async with asyncio.timeout(policy.timeout_seconds):
                if policy.mode == "bus" and self._bus is not None:
                    await self._bus.publish(self._event(provider, stored))
                elif policy.mode == "http":
                    answer = await client.post(policy.url, json=self._notice(provider, status, stored))
                    answer.raise_for_status()
        except Exception as exc:  # noqa: BLE001  whatever keeps others from being told, ingestion goes on
            self._metrics.errors.labels(provider=provider, stage="store_sync").inc()
            LOG.warning("nobody could be told of new data of %s: %s: %s", provider, type(exc).__name__, exc)
            return False
        return True

    def _event(self, provider: str, stored: int) -> FeedbackEvent:
        return FeedbackEvent(
            coordinator_id=f"ingest:{provider}",
            queue_size=0,
            capacity=1,
            level=BackpressureLevel.OK,
            source="ingest",
            ts=self._clock.now_ns() / NS_PER_SECOND,
            reason=f"new data of {provider} is stored, up to position {stored}",
        )

    def _notice(self, provider: str, status: SourceStatus, stored: int) -> dict[str, Any]:
        return {
            "event": "new_data",
            "provider": provider,
            "position": stored,
            "ts_event": status.ts_event,
            "ts": self._clock.now_ns() / NS_PER_SECOND,
        }
