"""One request to one peer, within a deadline and a size."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

import orjson

from market_data_core.errors import ConnectionFailed, ValidationError
from market_data_orchestrator.federation.peers import Peer

if TYPE_CHECKING:
    import httpx

_MAX_ANSWER_BYTES: Final = 4 << 20
# Those who write JSON give up somewhat above 250; what they could not write would fail our own answer.
_MAX_DEPTH: Final = 100
# Below the 5 s after which servers like ours close an idle connection: a request never meets one that is closing.
_KEEPALIVE_S: Final = 2.0


class GarbledAnswer(ConnectionFailed):
    """A peer answered with what is no answer of ours; asking again will not help."""

    retryable: ClassVar[bool] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a peer answered.

    Attributes:
        status_code: HTTP status, whatever it is, but no redirect.
        data: Its body, from JSON; None where that is empty.
    """

    status_code: int
    data: Any


class PeerClient:
    """Calls peers: no redirects, no proxy or credentials from the environment, no cookies.

    Belongs to one event loop. Connections are kept until `aclose`.

    Args:
        connect_timeout_s: How long a connection may take to come up, seconds.
        max_answer_bytes: Largest body of an answer.
        verify: What certificates are checked against; the usual authorities by default.
    """

    def __init__(
        self,
        *,
        connect_timeout_s: float = 2.0,
        max_answer_bytes: int = _MAX_ANSWER_BYTES,
        verify: ssl.SSLContext | bool = True,
    ) -> None:
        self._max_answer_bytes = max_answer_bytes
        self._connect_timeout_s = connect_timeout_s
        self._verify = verify
        self._made: httpx.AsyncClient | None = None

    # Made with the first call: a node without peers need not carry an HTTP client.
    @property
    def _http(self) -> httpx.AsyncClient:
        if self._made is None:
            self._made = self._make()
        return self._made

    def _make(self) -> httpx.AsyncClient:
        import httpx  # noqa: PLC0415

        return httpx.AsyncClient(
            follow_redirects=False,
            trust_env=False,
            # One caller's cookie must not go along with another's request.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            timeout=httpx.Timeout(None, connect=self._connect_timeout_s),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=32, keepalive_expiry=_KEEPALIVE_S),
            headers={"accept": "application/json", "accept-encoding": "identity", "user-agent": "market-data-platform"},
            verify=self._verify,
        )

    async def call(
        self,
        peer: Peer,
        method: str,
        path: str,
        *,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
        payload: Any = None,
    ) -> Answer:
        """Ask a peer and return its answer, whatever its status.

        Args:
            peer: Whom.
            method: HTTP method.
            path: Path and query, begins with a slash; see `checked_route`.
            timeout_s: How long the whole of it may take, seconds.
            headers: Sent along.
            payload: Sent as JSON; None for no body.

        Raises:
            ConnectionFailed: There was no answer in time.
            GarbledAnswer: The answer is too large, too deep, compressed, a redirect, or no JSON.
            ValidationError: The path or the payload cannot be sent.
        """
        import httpx  # noqa: PLC0415  as above

        url = url_at(peer, path)
        try:
            body = None if payload is None else orjson.dumps(payload)
        except TypeError as exc:
            raise ValidationError(f"payload: cannot be sent as JSON: {exc}") from exc
        sent = {**(headers or {}), **({} if body is None else {"content-type": "application/json"})}
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._http.stream(method, url, headers=sent, content=body) as response,
            ):
                return await self._read(peer, response)
        except TimeoutError as exc:
            raise ConnectionFailed(f"peer {peer.name} did not answer within {timeout_s:.3g} s") from exc
        except (httpx.HTTPError, httpx.StreamError) as exc:
            raise ConnectionFailed(f"peer {peer.name} did not answer: {type(exc).__name__}") from exc

    async def _read(self, peer: Peer, response: httpx.Response) -> Answer:
        status = response.status_code
        if 300 <= status < 400:
            raise GarbledAnswer(f"peer {peer.name} answered {status}, a redirect, which is not followed")
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            # A small compressed body may be a very large one.
            raise GarbledAnswer(f"peer {peer.name} answered {status} with a compressed body, which was not asked for")
        body = bytearray()
        async for part in response.aiter_raw():
            body += part
            if len(body) > self._max_answer_bytes:
                raise GarbledAnswer(f"peer {peer.name} answered {status} with more than {self._max_answer_bytes} bytes")
        try:
            data = orjson.loads(bytes(body)) if body else None
        except orjson.JSONDecodeError as exc:
            raise GarbledAnswer(f"peer {peer.name} answered {status} with what is no JSON") from exc
        if _is_deep(data):
            raise GarbledAnswer(f"peer {peer.name} answered {status} with JSON nested more than {_MAX_DEPTH} deep")
        return Answer(status_code=status, data=data)

    async def aclose(self) -> None:
        """Close all connections."""
        if self._made is not None:
            await self._made.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _is_deep(data: Any) -> bool:
    level = [data]
    for _ in range(_MAX_DEPTH + 1):
        level = [part for whole in level if isinstance(whole, dict | list) for part in _parts(whole)]
        if not level:
            return False
    return True


def _parts(whole: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return whole.values() if isinstance(whole, dict) else whole


def url_at(peer: Peer, path: str) -> httpx.URL:
    """Return the address of a path at a peer: scheme, host and port are always the peer's.

    Raises:
        ValidationError: The path does not begin with a slash, or is not ASCII.
    """
    import httpx  # noqa: PLC0415  as above

    if not path.startswith("/") or not path.isascii():
        raise ValidationError("path: to begin with a slash and to be ASCII")
    try:
        # The path is put in as it is, so it cannot be read as anything else of the address.
        return httpx.URL(peer.url).copy_with(raw_path=path.encode("ascii"))
    except httpx.InvalidURL as exc:
        raise ValidationError(f"path: cannot be sent: {exc}") from exc
