"""Every way in: keys, tokens of an issuer, browser sessions, tickets for sockets; and how often it may be tried."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client import CollectorRegistry, Counter

from market_data_core.clock import Clock
from market_data_core.telemetry import ControlAction
from market_data_core.web.auth import (
    LOGIN_LINK_S,
    WS_TICKET_S,
    Authenticator,
    MemorySessions,
    OneTime,
    Principal,
    Role,
    SessionCookies,
    Sessions,
    SessionStore,
    WsTickets,
    dual_auth,
    login_link,
    require,
    session_router,
)
from market_data_core.web.ratelimit import RateLimits, Rule, control_rules, guess_limited
from market_data_orchestrator.models.groups import SecuritySettings
from market_data_orchestrator.protocols import RateLimiter
from market_data_pipeline.runners import LIMITED_ACTIONS

_LOGINS_PER_MINUTE = 10


class SigningIn:
    """Who may come in, by the settings.

    Args:
        settings: How.
        keys: Who holds a key.
        limits: Count wrong keys and tokens.
        sessions: Where logins of browsers are kept; in memory, and gone with the process, if None.
        clock: Says when sessions, links and tickets are over.
    """

    def __init__(
        self,
        settings: SecuritySettings,
        keys: Authenticator,
        *,
        limits: RateLimiter,
        sessions: SessionStore | None = None,
        clock: Clock | None = None,
    ) -> None:
        # Not loaded where no issuer is asked.
        from market_data_core.web import auth  # noqa: PLC0415

        self.limits = limits
        self._public_url = settings.public_url
        tokens = (
            auth.OidcTokens(
                issuer=settings.oidc_issuer,
                audience=settings.oidc_audience,
                jwks_url=settings.jwks_url,
                role_claim=settings.jwt_role_claim,
                cache_ttl_s=settings.jwt_cache_ttl_s,
                refetch_s=settings.jwt_refetch_s,
                clock=clock,
            )
            if settings.jwt_enabled
            else None
        )
        self._oidc = (
            auth.OidcLogin(
                tokens,
                client_id=settings.oidc_client_id,
                client_secret=settings.oidc_client_secret.get_secret_value(),
                public_url=settings.public_url,
            )
            if tokens is not None and settings.oidc_client_id
            else None
        )
        self._oidc_logout = (
            auth.OidcLogout(tokens.issuer, client_id=settings.oidc_client_id, public_url=settings.public_url)
            if tokens is not None and self._oidc is not None
            else None
        )
        secure = settings.public_url.startswith("https://")
        self._sessions = Sessions(sessions or MemorySessions(), secure=secure, clock=clock)
        self._links: OneTime[Principal] = OneTime(LOGIN_LINK_S, clock=clock)
        self._tickets: OneTime[Principal] = OneTime(WS_TICKET_S, clock=clock)
        cookies = SessionCookies(self._sessions, allowed_origins=tuple(settings.cors_origins))
        self.ways: list[Authenticator] = dual_auth(
            [keys], tokens=tokens, dual=settings.dual_auth, sessions=[cookies, WsTickets(self._tickets)]
        )

    def router(self, failures: Counter) -> APIRouter:
        """Return the routes ``/auth/*``."""
        gate = guess_limited(require(Role.VIEWER, authenticators=self.ways, failures=failures), self.limits)
        return session_router(
            self._sessions,
            authenticators=self.ways,
            links=self._links,
            tickets=self._tickets,
            oidc=self._oidc,
            oidc_logout=self._oidc_logout,
            failures=failures,
            gate=gate,
        )

    def first_link(self, base_url: str) -> str:
        """Return a link that signs its first user in as an admin, for ten minutes.

        Args:
            base_url: Where the service answers, unless the settings name a public URL.
        """
        return login_link(
            self._links, Principal(name="first", role=Role.ADMIN), public_url=self._public_url or base_url
        )


def rate_limits(settings: SecuritySettings, registry: CollectorRegistry, *, clock: Clock | None = None) -> RateLimits:
    """Return the limits by the settings: on control, on ingestion control, and on wrong keys and tokens.

    Args:
        settings: Whether, how often, and where it is counted.
        registry: Where decisions are counted.
        clock: Says when Redis is tried again, and since when it is away.
    """
    hits = Counter(
        "orchestrator_rate_limit_hits",
        "Requests that a limit was asked about.",
        ["action", "result"],
        registry=registry,
    )
    degraded = Counter(
        "orchestrator_rate_limit_degraded",
        "Times the shared limits were away and this process decided.",
        registry=registry,
    )
    rules = []
    if settings.rate_limit_enabled:
        actions = [*(str(action) for action in ControlAction), *LIMITED_ACTIONS]
        rules = [
            *control_rules(actions, max_per_minute=settings.rate_limit_max_per_minute),
            Rule(action="login", max_hits=_LOGINS_PER_MINUTE),
        ]
        for action in (*actions, "login"):
            for result in ("allowed", "denied"):
                hits.labels(action=action, result=result)
    return RateLimits(
        # Where nothing is limited nothing is counted, and no Redis is missed.
        settings.redis_rate_limit_url if rules else None,
        rules,
        on_hit=lambda action, result: hits.labels(action=action, result=result).inc(),
        on_degraded=degraded.inc,
        clock=clock,
    )
