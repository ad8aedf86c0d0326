"""What the orchestrator's parts look like to each other; anything of the same shape can stand in for ours."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, Protocol, runtime_checkable

from market_data_core.clock import Clock
from market_data_core.protocols import BatchSource, FederationDirectory
from market_data_core.web.ratelimit import Decision, Outage
from market_data_orchestrator.audit.ports import AuditLogger
from market_data_pipeline.orchestration import FeedbackBus as PipelineFeedbackBus
from market_data_store.state import State

__all__ = ["AuditLogger", "FederationDirectory", "FeedbackBus", "Provider", "RateLimiter", "Runtime"]


@runtime_checkable
class Provider(BatchSource, Protocol):
    """A provider as the orchestrator starts it: what stands behind an entry point of ``market_data.providers``."""


@runtime_checkable
class FeedbackBus(PipelineFeedbackBus, Protocol):
    """Who tells whom how full the queues are."""


@runtime_checkable
class Runtime(Protocol):
    """What is controlled: the data path, with what is remembered of it."""

    @property
    def clock(self) -> Clock:
        """Where its time comes from."""
        ...

    @property
    def phase(self) -> str:
        """``starting``, ``running``, ``stopping``, ``stopped`` or ``failed``."""
        ...

    @property
    def paused(self) -> bool:
        """Whether intake is paused."""
        ...

    @property
    def paused_since(self) -> float | None:
        """Since when, seconds since the epoch; None while it is not."""
        ...

    @property
    def state(self) -> State | None:
        """Where it remembers; None until it has started."""
        ...

    def running(self) -> AbstractAsyncContextManager[None]:
        """Run in the background while entered; leaving drains and releases everything."""
        ...

    def stop(self) -> None:
        """Ask for the end."""
        ...

    async def pause(self, actor: str) -> str:
        """Stop intake and store what was received; says what happened.

        Raises:
            TemporaryUnavailable: It is not running, or cannot remember.
        """
        ...

    async def resume(self, actor: str) -> str:
        """Take in again; says what happened.

        Raises:
            TemporaryUnavailable: It is not running, or cannot remember.
        """
        ...

    async def reload(self) -> dict[str, Any]:
        """Run what the configuration says now, whole or not at all; returns what was done.

        Raises:
            ConfigurationError: The configuration is wrong.
            PipelineError: The change could not be made in time.
            TemporaryUnavailable: It is not running.
        """
        ...


@runtime_checkable
class RateLimiter(Protocol):
    """Says how often a caller may do something."""

    @property
    def state(self) -> Literal["local", "shared", "degraded"]:
        """Where it counts."""
        ...

    @property
    def outage(self) -> Outage | None:
        """Why and since when it counts alone; None while it is not ``degraded``."""
        ...

    async def hit(self, action: str, actor: str) -> Decision | None:
        """Count one attempt; None if the action is not limited."""
        ...

    async def test(self, action: str, actor: str) -> Decision | None:
        """Return what `hit` would, and count nothing."""
        ...

    async def require(self, action: str, actor: str) -> Decision | None:
        """Count one attempt.

        Raises:
            RateLimited: It may not go on.
        """
        ...

    async def watch(self) -> None:
        """Keep `state` true while nobody asks; runs until cancelled, or ends at once if there is nothing to watch."""
        ...

    async def close(self) -> None:
        """Let go of what it holds."""
        ...
