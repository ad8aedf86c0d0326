"""Browser sessions kept by the server, and secrets that can be used once."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Final, Generic, Protocol, TypeVar

from starlette.requests import HTTPConnection

from market_data_core.clock import NS_PER_SECOND, Clock, SystemClock
from market_data_core.errors import AuthenticationFailed
from market_data_core.web.auth.roles import Principal
from market_data_core.web.security import origin_allowed

IDLE_S: Final = 3600.0
"""A session nobody uses ends after this long, seconds."""

ABSOLUTE_S: Final = 12 * 3600.0
"""A session ends this long after its login, seconds."""

LOGIN_LINK_S: Final = 600.0
"""How long a login link holds, seconds."""

WS_TICKET_S: Final = 30.0
"""How long a WebSocket ticket holds, seconds."""

CSRF_HEADER: Final = "X-CSRF-Token"

_RANDOM_BYTES: Final = 32
_SECRET_CHARS: Final = 43  # 32 bytes in base64 without padding
_MAX_KEPT: Final = 10_000
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One login of a browser.

    Attributes:
        principal: Who logged in.
        created_ns: When, UTC nanoseconds since the epoch.
        seen_ns: When it was last used, same unit.
    """

    principal: Principal
    created_ns: int
    seen_ns: int


class SessionStore(Protocol):
    """Keeps sessions under the hash of their id; the id itself is only in the browser."""

    async def save(self, key: str, session: Session) -> None:
        """Keep a session, or its newer state."""
        ...

    async def find(self, key: str) -> Session | None:
        """Return the session, or None if there is none."""
        ...

    async def remove(self, key: str) -> None:
        """Forget a session; there need not be one."""
        ...


class MemorySessions:
    """Sessions of one process, which end with it.

    Args:
        max_sessions: Beyond it the one unused for longest ends.
    """

    def __init__(self, *, max_sessions: int = _MAX_KEPT) -> None:
        self._max = max_sessions
        self._kept: OrderedDict[str, Session] = OrderedDict()

    async def save(self, key: str, session: Session) -> None:
        """Keep a session, or its newer state."""
        self._kept[key] = session
        self._kept.move_to_end(key)
        while len(self._kept) > self._max:
            self._kept.popitem(last=False)

    async def find(self, key: str) -> Session | None:
        """Return the session, or None if there is none."""
        return self._kept.get(key)

    async def remove(self, key: str) -> None:
        """Forget a session; there need not be one."""
        self._kept.pop(key, None)


class Sessions:
    """Opens, finds and ends sessions.

    Args:
        store: Where they are kept.
        idle_s: A session nobody uses ends after this long, seconds.
        absolute_s: Any session ends this long after its login, seconds.
        secure: Do browsers reach the service over https? Then their cookies travel over nothing else.
        clock: Says when a session has ended.
    """

    def __init__(
        self,
        store: SessionStore,
        *,
        idle_s: float = IDLE_S,
        absolute_s: float = ABSOLUTE_S,
        secure: bool = True,
        clock: Clock | None = None,
    ) -> None:
        self._store = store
        self._idle_ns = int(idle_s * NS_PER_SECOND)
        self._absolute_ns = int(absolute_s * NS_PER_SECOND)
        self._clock = clock or SystemClock()
        self.absolute_s = absolute_s
        self.secure = secure
        # With this prefix a browser takes the cookie from this very host over https only, never from a sibling's.
        self.cookie = "__Host-mdo_session" if secure else "mdo_session"

    async def open(self, principal: Principal) -> str:
        """Begin a session and return its id: 256 random bits, to be given to the browser and nobody else."""
        session_id = secrets.token_urlsafe(_RANDOM_BYTES)
        now_ns = self._clock.now_ns()
        await self._store.save(_hashed(session_id), Session(principal=principal, created_ns=now_ns, seen_ns=now_ns))
        return session_id

    async def find(self, session_id: str) -> Session | None:
        """Return the session and note that it was used; None if there is none or it has ended."""
        if len(session_id) != _SECRET_CHARS:
            return None
        key = _hashed(session_id)
        session = await self._store.find(key)
        if session is None:
            return None
        now_ns = self._clock.now_ns()
        if now_ns - session.seen_ns >= self._idle_ns or now_ns - session.created_ns >= self._absolute_ns:
            await self._store.remove(key)
            return None
        # Noted coarsely, so that a store on disk is not written with every request.
        if now_ns - session.seen_ns >= self._idle_ns // 60:
            session = replace(session, seen_ns=now_ns)
            await self._store.save(key, session)
        return session

    async def close(self, session_id: str) -> None:
        """End a session; there need not be one."""
        await self._store.remove(_hashed(session_id))

    def offered(self, connection: HTTPConnection) -> str | None:
        """Return the session id a request carries, or None."""
        return connection.cookies.get(self.cookie) or None


def csrf_token(session_id: str) -> str:
    """Return the token that proves a page can read what this session's own pages can.

    It follows from the session id, so nothing is kept, and no token of another session fits.
    """
    digest = hmac.digest(session_id.encode("utf-8", "surrogatepass"), b"csrf", hashlib.sha256)
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


class SessionCookies:
    """Callers whose browser has a session.

    What changes something must carry the session's `csrf_token` in `CSRF_HEADER`; a WebSocket, for which a page can
    set no header, must come from a page of ours.

    Args:
        sessions: The sessions.
        allowed_origins: Other origins whose pages may open WebSockets.
    """

    def __init__(self, sessions: Sessions, *, allowed_origins: tuple[str, ...] = ()) -> None:
        self._sessions = sessions
        self._allowed_origins = allowed_origins

    async def authenticate(self, connection: HTTPConnection) -> Principal | None:
        """Return whose session the request carries, or None.

        Raises:
            AuthenticationFailed: The session holds, but the request may be another page's.
        """
        session_id = self._sessions.offered(connection)
        session = None if session_id is None else await self._sessions.find(session_id)
        if session_id is None or session is None:
            return None
        if connection.scope["type"] == "websocket":
            if not origin_allowed(connection.scope, self._allowed_origins):
                raise AuthenticationFailed("a page of another origin may not use this session")
        elif connection.scope.get("method") not in _SAFE:
            offered = connection.headers.get(CSRF_HEADER, "")
            if not hmac.compare_digest(offered.encode("latin-1", "replace"), csrf_token(session_id).encode()):
                raise AuthenticationFailed(f"the request lacks the session's token in {CSRF_HEADER}")
        return session.principal


class OneTime(Generic[T]):
    """Secrets that stand for something and can be used once.

    Args:
        ttl_s: How long each holds, seconds.
        clock: Says when.
        max_kept: Beyond it the oldest no longer holds.
    """

    def __init__(self, ttl_s: float, *, clock: Clock | None = None, max_kept: int = _MAX_KEPT) -> None:
        self.ttl_s = ttl_s
        self._clock = clock or SystemClock()
        self._max = max_kept
        self._kept: OrderedDict[str, tuple[float, T]] = OrderedDict()

    def issue(self, value: T) -> str:
        """Return a new secret for `value`: 256 random bits. Only its hash is kept."""
        now_s = self._clock.monotonic_s()
        while self._kept and (len(self._kept) >= self._max or next(iter(self._kept.values()))[0] <= now_s):
            self._kept.popitem(last=False)
        secret = secrets.token_urlsafe(_RANDOM_BYTES)
        self._kept[_hashed(secret)] = (now_s + self.ttl_s, value)
        return secret

    def redeem(self, secret: str) -> T | None:
        """Return what a secret stands for; None if there is no such one, it is too old or was used before."""
        if len(secret) != _SECRET_CHARS:
            return None
        until_s, value = self._kept.pop(_hashed(secret), (0.0, None))
        return value if self._clock.monotonic_s() < until_s else None


class WsTickets:
    """Callers who open a WebSocket with a ticket, as ``?ticket=``.

    Args:
        tickets: The tickets; each stands for who asked for it.
    """

    def __init__(self, tickets: OneTime[Principal]) -> None:
        self._tickets = tickets

    async def authenticate(self, connection: HTTPConnection) -> Principal | None:
        """Return whose ticket a WebSocket carries, or None; the ticket is used up."""
        if connection.scope["type"] != "websocket":
            return None
        offered = connection.query_params.getlist("ticket")
        return self._tickets.redeem(offered[0]) if len(offered) == 1 else None


def _hashed(secret: str) -> str:
    # Without salt: a secret of 256 random bits is in no table.
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
