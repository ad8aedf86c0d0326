"""What an OpenID issuer publishes about itself: its endpoints and the keys it signs with."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
from joserfc.errors import JoseError
from joserfc.jwk import JWKRegistry, Key, RSAKey

from market_data_core.clock import Clock, SystemClock
from market_data_core.errors import AuthenticationFailed, ConfigurationError, TemporaryUnavailable

LOG = logging.getLogger(__name__)

REFETCH_S: Final = 10.0
"""Least time between two attempts to fetch keys unless said otherwise, seconds."""

STALE_S: Final = 24 * 3600.0
"""How long keys count while the issuer is away, seconds since they were fetched."""

_MAX_BYTES: Final = 256 * 1024
_MIN_RSA_BITS: Final = 2048
_MIN_RSA_CHARS: Final = 342  # of such a modulus in base64
_ASYMMETRIC: Final = frozenset({"RSA", "EC", "OKP"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Where an issuer is to be asked, from its discovery document.

    Attributes:
        jwks: Its keys.
        authorization: Where browsers log in; empty if it does not say.
        token: Where a code is exchanged for tokens; empty if it does not say.
        end_session: Where browsers log out; empty if it does not say.
    """

    jwks: str
    authorization: str = ""
    token: str = ""
    end_session: str = ""


class Issuer:
    """An OpenID issuer, asked as seldom as possible.

    Keys are fetched when first needed and again after `cache_ttl_s`. A key it has not shown yet has them fetched at
    once, so that a rotation needs no restart; but never more than one attempt in `refetch_s`, whoever invents key ids.
    While the issuer is away its last keys count for `STALE_S`.

    Args:
        issuer: Its URL, exactly as its tokens name it.
        jwks_url: Where its keys are; empty to learn it from its discovery document.
        cache_ttl_s: How long keys are used before they are fetched again, seconds.
        refetch_s: Least time between two attempts to fetch them, seconds.
        timeout_s: How long one fetch may take in all, seconds.
        clock: Measures these times.

    Raises:
        ConfigurationError: An address is not https; plain http is for loopback only.
    """

    def __init__(
        self,
        issuer: str,
        *,
        jwks_url: str = "",
        cache_ttl_s: float = 3600.0,
        refetch_s: float = REFETCH_S,
        timeout_s: float = 3.0,
        clock: Clock | None = None,
    ) -> None:
        if not _trustworthy(issuer):
            raise ConfigurationError(f"the OIDC issuer {issuer!r} is not an https URL")
        if jwks_url and not _trustworthy(jwks_url):
            raise ConfigurationError(f"the JWKS URL {jwks_url!r} is not an https URL")
        self.issuer = issuer
        self.timeout_s = timeout_s
        self._jwks_url = jwks_url
        self._cache_ttl_s = cache_ttl_s
        self._refetch_s = refetch_s
        self._clock = clock or SystemClock()
        self._endpoints: Endpoints | None = None
        self._keys: tuple[Key, ...] = ()
        self._fetched_s: float | None = None
        self._tried_s: float | None = None
        self._fetching = asyncio.Lock()

    async def endpoints(self) -> Endpoints:
        """Return its endpoints; they are read once.

        Raises:
            TemporaryUnavailable: It does not answer, or not with a discovery document of its own.
        """
        if self._endpoints is None:
            found = await self._get_json(f"{self.issuer.rstrip('/')}/.well-known/openid-configuration")
            # A document of another issuer would have us take its keys for this one's (RFC 8414, section 3.3).
            if found.get("issuer") != self.issuer:
                raise TemporaryUnavailable(f"the discovery document of {self.issuer} names another issuer")
            names = ("jwks_uri", "authorization_endpoint", "token_endpoint", "end_session_endpoint")
            fields = {name: _url(found, name) for name in names}
            if not fields["jwks_uri"]:
                raise TemporaryUnavailable(f"the discovery document of {self.issuer} names no usable jwks_uri")
            self._endpoints = Endpoints(
                jwks=fields["jwks_uri"],
                authorization=fields["authorization_endpoint"],
                token=fields["token_endpoint"],
                end_session=fields["end_session_endpoint"],
            )
        return self._endpoints

    async def key(self, kid: str | None, key_type: str) -> Key:
        """Return the key of that id.

        Args:
            kid: What the token says; None if it says nothing, which is enough if there is one key of the type.
            key_type: ``RSA``, ``EC`` or ``OKP``, by the token's algorithm.

        Raises:
            AuthenticationFailed: The issuer has no such key.
            TemporaryUnavailable: There are no keys that still count, and the issuer cannot be asked.
        """
        await self._ensure_fresh()
        found = self._find(kid, key_type)
        if found is None:
            await self._refresh(having=self._keys)
            found = self._find(kid, key_type)
        if found is None:
            raise AuthenticationFailed("the token is signed with a key its issuer does not show")
        return found

    def _find(self, kid: str | None, key_type: str) -> Key | None:
        suitable = [key for key in self._keys if key.key_type == key_type]
        if kid is None:
            return suitable[0] if len(suitable) == 1 else None
        return next((key for key in suitable if key.kid == kid), None)

    def _age_s(self) -> float | None:
        return None if self._fetched_s is None else self._clock.monotonic_s() - self._fetched_s

    async def _ensure_fresh(self) -> None:
        age_s = self._age_s()
        if age_s is not None and age_s < self._cache_ttl_s:
            return
        # With keys that still count nobody waits behind another's fetch.
        if age_s is None or age_s >= STALE_S or not self._fetching.locked():
            await self._refresh(having=self._keys)
        age_s = self._age_s()
        if age_s is None or age_s >= STALE_S:
            error = TemporaryUnavailable("tokens cannot be checked at present: their issuer does not answer")
            error.retry_after_sec = self._refetch_s
            raise error

    async def _refresh(self, *, having: tuple[Key, ...]) -> None:
        async with self._fetching:
            now_s = self._clock.monotonic_s()
            if self._keys is not having or (self._tried_s is not None and now_s - self._tried_s < self._refetch_s):
                return
            self._tried_s = now_s
            try:
                url = self._jwks_url or (await self.endpoints()).jwks
                keys = _usable_keys(await self._get_json(url))
            except TemporaryUnavailable as exc:
                LOG.warning("keys of %s could not be fetched: %s", self.issuer, exc.message)
                return
            if not keys:
                LOG.warning("%s shows no usable key; its last ones stay", self.issuer)
                return
            self._keys, self._fetched_s = keys, self._clock.monotonic_s()

    async def _get_json(self, url: str) -> dict[str, Any]:
        return await fetch_json("GET", url, timeout_s=self.timeout_s)


async def fetch_json(
    method: str,
    url: str,
    *,
    timeout_s: float,
    form: dict[str, str] | None = None,
    auth: tuple[str, str] | None = None,
) -> dict[str, Any]:
    """Return the JSON object an issuer answers with.

    Args:
        method: ``GET`` or ``POST``.
        url: Where to ask; redirects are not followed.
        timeout_s: For all of it, seconds.
        form: Sent as a form.
        auth: User and password of HTTP basic authentication.

    Raises:
        AuthenticationFailed: The answer is a 4xx.
        TemporaryUnavailable: There is none in time, or it is too large, no object, or any other status.
    """
    body = bytearray()
    try:
        async with (
            asyncio.timeout(timeout_s),
            httpx.AsyncClient(timeout=timeout_s, follow_redirects=False) as client,
            client.stream(method, url, data=form, auth=auth, headers={"accept": "application/json"}) as answer,
        ):
            status = answer.status_code
            async for chunk in answer.aiter_bytes():
                body += chunk
                if len(body) > _MAX_BYTES:
                    raise TemporaryUnavailable(f"{url} answered with more than {_MAX_BYTES} bytes")
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as exc:
        raise TemporaryUnavailable(f"{url} does not answer: {type(exc).__name__}") from exc
    if method == "POST" and 400 <= status < 500:
        raise AuthenticationFailed(f"{url} refused with status {status}")
    if status != 200:
        raise TemporaryUnavailable(f"{url} answered with status {status}")
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise TemporaryUnavailable(f"{url} answered with no JSON") from exc
    if not isinstance(found, dict):
        raise TemporaryUnavailable(f"{url} answered with no JSON object")
    return found


def _usable_keys(document: dict[str, Any]) -> tuple[Key, ...]:
    # One key nobody can read must not take the others with it. Symmetric ones are never in a public document on
    # purpose, and a token "signed" with a published secret proves nothing.
    keys = []
    entries = document.get("keys")
    for entry in entries if isinstance(entries, list) else []:
        kind = entry.get("kty") if isinstance(entry, dict) else None
        if not isinstance(kind, str) or kind not in _ASYMMETRIC or entry.get("use", "sig") != "sig":
            continue
        if kind == "RSA" and len(str(entry.get("n", ""))) < _MIN_RSA_CHARS:
            continue
        try:
            key = JWKRegistry.import_key(entry)
            weak = isinstance(key, RSAKey) and key.public_key.key_size < _MIN_RSA_BITS
        except (JoseError, ValueError, TypeError, KeyError) as exc:
            LOG.warning("a key of the issuer is left out: %s", type(exc).__name__)
            continue
        if not weak:
            keys.append(key)
    return tuple(keys)


def _url(document: dict[str, Any], name: str) -> str:
    value = document.get(name)
    return value if isinstance(value, str) and _trustworthy(value) else ""


def _trustworthy(url: str) -> bool:
    # Keys that came over plain http could be anybody's.
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        return False
    if not host or parts.scheme not in ("http", "https"):
        return False
    if parts.scheme == "https" or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
