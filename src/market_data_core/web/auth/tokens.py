"""Callers who show a signed token of an OpenID issuer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from joserfc import jws
from joserfc.errors import JoseError
from starlette.requests import HTTPConnection

from market_data_core.clock import NS_PER_SECOND, Clock, SystemClock
from market_data_core.errors import AuthenticationFailed, ConfigurationError
from market_data_core.web.auth.oidc import REFETCH_S, Issuer
from market_data_core.web.auth.roles import Principal, Role

KEY_TYPES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), "RSA"),
    **dict.fromkeys(("ES256", "ES384", "ES512"), "EC"),
    **dict.fromkeys(("EdDSA", "Ed25519"), "OKP"),
}
"""Type of key by accepted algorithm. None is symmetric: then whoever can check a token could make one."""

SKEW_S: Final = 60
"""How far the issuer's clock may stand from ours, seconds."""

_MAX_TOKEN_CHARS: Final = 16 * 1024
_MAX_NAME_CHARS: Final = 128
_MAX_TIME_S: Final = 1e12
_SHAPE: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")


class OidcTokens:
    """Callers with a token of an issuer, sent as ``Authorization: Bearer``.

    A token must be signed with an asymmetric key the issuer shows, and name this issuer, our audience, a subject and
    when it was issued and expires; ``nbf`` counts where there is one (RFC 9068 does not ask for it, and most issuers
    leave it out). What a token says of roles is looked up by `role_claim`; the highest counts, and without one that we
    know there is no access. What is no token at all is left to others.

    Args:
        issuer: URL of the issuer.
        audience: Who the tokens must be meant for.
        jwks_url: Where the issuer's keys are; empty to learn it by discovery.
        role_claim: Name of the claim, or a path such as ``realm_access.roles``.
        cache_ttl_s: How long the issuer's keys are kept, seconds.
        refetch_s: Least time between two attempts to fetch them, seconds.
        timeout_s: How long the issuer may take to answer, seconds.
        clock: Says what has expired.

    Raises:
        ConfigurationError: There is no issuer, audience or role claim, or an address is not https.
    """

    def __init__(
        self,
        *,
        issuer: str,
        audience: str,
        jwks_url: str = "",
        role_claim: str = "roles",
        cache_ttl_s: float = 3600.0,
        refetch_s: float = REFETCH_S,
        timeout_s: float = 3.0,
        clock: Clock | None = None,
    ) -> None:
        if not (issuer and audience and role_claim):
            raise ConfigurationError("tokens need an issuer, an audience and a role claim")
        self._clock = clock or SystemClock()
        self._audience = audience
        self.role_claim = role_claim
        self.issuer = Issuer(
            issuer,
            jwks_url=jwks_url,
            cache_ttl_s=cache_ttl_s,
            refetch_s=refetch_s,
            timeout_s=timeout_s,
            clock=self._clock,
        )

    async def authenticate(self, connection: HTTPConnection) -> Principal | None:
        """Return whose token the request carries, or None if it carries none.

        Raises:
            AuthenticationFailed: The token does not hold; says why.
            TemporaryUnavailable: The issuer's keys cannot be had.
        """
        token = _offered_token(connection)
        return None if token is None else self.principal_of(await self.claims_of(token))

    async def claims_of(self, token: str, *, audience: str | None = None) -> dict[str, Any]:
        """Return what a token claims, once all of it has been checked.

        Args:
            token: In compact form.
            audience: Who it must be meant for, if not us: the id token of a login is meant for the client.

        Raises:
            AuthenticationFailed: It does not hold.
            TemporaryUnavailable: The issuer's keys cannot be had.
        """
        if len(token) > _MAX_TOKEN_CHARS:
            raise AuthenticationFailed("the token is too long")
        try:
            # Bytes that are not ASCII are none of a token's either.
            unchecked = jws.extract_compact(token.encode("ascii"), registry=_REGISTRY)
            header = unchecked.headers()
            algorithm, kid = header.get("alg"), header.get("kid")
        except (JoseError, ValueError, TypeError, KeyError, RecursionError):
            raise AuthenticationFailed("the token is malformed") from None
        key_type = KEY_TYPES.get(algorithm) if isinstance(algorithm, str) else None
        if key_type is None:
            raise AuthenticationFailed("the token is signed with an algorithm that is not accepted")
        # An extension that must be understood: we understand none (RFC 7515, section 4.1.11).
        if "crit" in header or (kid is not None and not isinstance(kid, str)):
            raise AuthenticationFailed("the token is malformed")
        key = await self.issuer.key(kid, key_type)
        try:
            holds = key.alg in (None, algorithm) and jws.validate_compact(unchecked, key, registry=_REGISTRY)
        except (JoseError, ValueError, TypeError, KeyError, RecursionError):
            # Not chained: a library's message may quote what it could not read.
            raise AuthenticationFailed("the token's signature does not hold") from None
        if not holds:
            raise AuthenticationFailed("the token's signature does not hold")
        claims = _claims(unchecked.payload or b"")
        self._check(claims, audience or self._audience)
        return claims

    def principal_of(self, claims: Mapping[str, Any]) -> Principal:
        """Return who checked claims speak of.

        Raises:
            AuthenticationFailed: They name no role of ours.
        """
        role = role_in(claims, self.role_claim)
        if role is None:
            raise AuthenticationFailed(f"the token names no role: its claim {self.role_claim} has none of ours")
        return Principal(name=claims["sub"], role=role)

    def _check(self, claims: Mapping[str, Any], audience: str) -> None:
        if claims.get("iss") != self.issuer.issuer:
            raise AuthenticationFailed("the token is of another issuer")
        named = claims.get("aud")
        if audience not in (named if isinstance(named, list) else [named]):
            raise AuthenticationFailed("the token is meant for another service")
        subject = claims.get("sub")
        if not isinstance(subject, str) or not 0 < len(subject) <= _MAX_NAME_CHARS or not subject.isprintable():
            raise AuthenticationFailed("the token names no usable subject")
        now_s = self._clock.now_ns() / NS_PER_SECOND
        if _time_s(claims, "exp") + SKEW_S <= now_s:
            raise AuthenticationFailed("the token has expired")
        if _time_s(claims, "iat") - SKEW_S > now_s:
            raise AuthenticationFailed("the token was issued in the future")
        if "nbf" in claims and _time_s(claims, "nbf") - SKEW_S > now_s:
            raise AuthenticationFailed("the token is not valid yet")


def role_in(claims: Mapping[str, Any], claim: str) -> Role | None:
    """Return the highest role that claims name, or None.

    Args:
        claims: What a token says.
        claim: A name, or a path of names with dots; a claim whose own name has dots is found too. Its value is a list
            of role names, or one string of them with spaces or commas between.
    """
    value: Any = claims.get(claim)
    if value is None:
        value = claims
        for part in claim.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
    named: Iterable[Any] = value if isinstance(value, list) else ()
    if isinstance(value, str):
        named = re.split(r"[\s,]+", value)
    known = [role for role in Role if role in [name for name in named if isinstance(name, str)]]
    return known[-1] if known else None


class _Accepted(jws.JWSRegistry):
    # Of larger headers than the library allows by default: some issuers put a certificate chain there. `EdDSA` is
    # given without the library's warning, because most issuers with such keys still call it by that name.
    max_header_length = 8 * 1024

    def get_alg(self, name: str) -> Any:
        return self.algorithms[name] if name in KEY_TYPES else super().get_alg(name)


_REGISTRY: Final = _Accepted(algorithms=list(KEY_TYPES), strict_check_header=False)


def _offered_token(connection: HTTPConnection) -> str | None:
    values = [value.strip() for value in connection.headers.getlist("authorization")]
    if len(values) != 1 or not values[0].lower().startswith("bearer "):
        return None
    token = values[0][len("bearer ") :].strip()
    # An API key may come as bearer too; it has not this shape.
    return token if _SHAPE.fullmatch(token) else None


def _claims(payload: bytes) -> dict[str, Any]:
    try:
        claims = json.loads(payload, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise AuthenticationFailed("the token is malformed") from None
    if not isinstance(claims, dict):
        raise AuthenticationFailed("the token is malformed")
    return claims


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Of a claim that is there twice, another reader of the same token may take the other one (RFC 7519, section 4).
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a claim is there twice")
    return found


def _time_s(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name)
    # The bounds also keep out infinities and NaN, which are JSON to Python.
    if isinstance(value, bool) or not isinstance(value, int | float) or not -_MAX_TIME_S < value < _MAX_TIME_S:
        raise AuthenticationFailed(f"the token's {name} is missing or no time")
    return float(value)
