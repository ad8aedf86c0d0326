"""From an address to a feedback bus."""

from __future__ import annotations

from urllib.parse import urlsplit

from market_data_core.clock import Clock, SystemClock
from market_data_core.errors import ConfigurationError
from market_data_pipeline.orchestration.feedback import QUEUE_EVENTS, FeedbackBus, MemoryBus


def feedback_bus(
    url: str = "memory://", *, clock: Clock | None = None, queue_events: int = QUEUE_EVENTS
) -> FeedbackBus:
    """Return the feedback bus at an address.

    Args:
        url: ``memory://`` for one within this event loop; ``redis://[user:password@]host:port/db`` or ``rediss://`` for
            one that several processes share.
        clock: Times reconnects; the system's if None.
        queue_events: Events that wait for one reader, or for a server that is away.

    Raises:
        ConfigurationError: The address is none of these, or the package ``redis`` is not installed.
    """
    if queue_events < 1:
        raise ConfigurationError(f"feedback bus: queue_events {queue_events} is not at least 1")
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  reading it is what checks it
    except ValueError as exc:
        raise ConfigurationError("feedback bus: the address cannot be parsed") from exc
    if parts.scheme == "memory":
        return MemoryBus(queue_events=queue_events)
    database = parts.path.strip("/")
    if parts.scheme in ("redis", "rediss") and parts.hostname and (not database or database.isdecimal()):
        from market_data_pipeline.orchestration.redis_bus import RedisBus  # noqa: PLC0415  not everybody has redis

        return RedisBus(url, clock=clock or SystemClock(), queue_events=queue_events)
    raise ConfigurationError(
        f"feedback bus: the address, {parts.scheme or 'without scheme'}://, is none of memory://, "
        "redis://host:port/db and rediss://host:port/db, db a number"
    )
