"""Where the market socket is found."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import Counter
from starlette.routing import WebSocketRoute

from market_data_core.web.auth import Authenticator, Role
from market_data_core.web.ratelimit import guess_limited
from market_data_orchestrator.audit.trail import audited_gate
from market_data_orchestrator.market.feed import MarketFeed
from market_data_orchestrator.market.socket import MarketSocket
from market_data_orchestrator.protocols import AuditLogger, RateLimiter
from market_data_orchestrator.service import Service
from market_data_orchestrator.status import StatusAggregator

PATH = "/ws/market"


def market_route(
    feed: MarketFeed,
    service: Service,
    status: StatusAggregator,
    callers: Sequence[Authenticator],
    *,
    audit: AuditLogger,
    limits: RateLimiter,
    failures: Counter,
) -> WebSocketRoute:
    """Return ``/ws/market``.

    Args:
        feed: What clients get; run by whoever made it.
        service: Has the settings and the clock.
        status: Counts clients.
        callers: The ways in, tried in order.
        audit: Where refusals are recorded.
        limits: How often wrong keys may be tried.
        failures: Counts who was not let in.
    """
    gate = audited_gate(audit, Role.VIEWER, authenticators=callers, failures=failures, action="ws.market")

    settings = service.settings
    socket = MarketSocket(
        feed,
        guess_limited(gate, limits),
        callers,
        count=status.count_ws,
        clock=service.clock,
        allowed_origins=settings.cors_origins,
        public_url=settings.public_url,
    )
    return WebSocketRoute(PATH, socket, name="ws-market")
