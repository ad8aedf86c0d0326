"""Login at an OpenID issuer."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import Response

from market_data_core.errors import AuthenticationFailed, ConfigurationError, TemporaryUnavailable
from market_data_core.web.auth.cookies import redirect, set_cookie
from market_data_core.web.auth.oidc import fetch_json
from market_data_core.web.auth.roles import Principal
from market_data_core.web.auth.tokens import OidcTokens, role_in

_STATE_S: Final = 600
_MAX_CODE_CHARS: Final = 4096
_MAX_SID_CHARS: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerLogin:
    """A login that an issuer has confirmed.

    Attributes:
        principal: Who has logged in.
        sid: What the issuer calls its own session of that browser; empty if it does not say. No token, opens nothing.
    """

    principal: Principal
    sid: str = ""


class OidcLogin:
    """Login at an OpenID issuer: authorization code with PKCE, exchanged by the server.

    What has to be remembered until the browser comes back (state, nonce, PKCE verifier) is in a cookie of that
    browser, so that nobody can fill the server with logins that are never finished, nor finish another's.

    Args:
        tokens: Checks what the issuer signs.
        client_id: What the issuer knows us as.
        client_secret: Its secret; empty for a public client.
        public_url: The URL browsers reach the service by; the callback is ``/auth/callback`` below it.
        scope: What is asked for.

    Raises:
        ConfigurationError: The client id or the public URL is missing.
    """

    def __init__(
        self,
        tokens: OidcTokens,
        *,
        client_id: str,
        client_secret: str,
        public_url: str,
        scope: str = "openid profile",
    ) -> None:
        if not client_id or not public_url:
            raise ConfigurationError("login at an OIDC issuer needs the client id and the public URL")
        self._tokens = tokens
        self._client_id = client_id
        self._client_secret = client_secret
        self._scope = scope
        self._callback = f"{public_url.rstrip('/')}/auth/callback"
        self.secure = public_url.lower().startswith("https://")
        self.cookie = "__Host-mdo_login" if self.secure else "mdo_login"

    async def begin(self) -> Response:
        """Return the redirect to the issuer.

        Raises:
            TemporaryUnavailable: The issuer does not answer, or cannot do this.
        """
        endpoint = (await self._tokens.issuer.endpoints()).authorization
        if not endpoint:
            raise TemporaryUnavailable("the issuer names no place to log in at")
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        query = {
            "response_type": "code",
            "client_id": self._client_id,
            "redirect_uri": self._callback,
            "scope": self._scope,
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        answer = redirect(with_query(endpoint, query))
        set_cookie(answer, self.cookie, f"{state}.{nonce}.{verifier}", secure=self.secure, max_age_s=_STATE_S)
        return answer

    async def finish(self, request: Request) -> IssuerLogin:
        """Return who has logged in, for the request with which the issuer sent the browser back.

        Raises:
            AuthenticationFailed: The login was not begun by this browser, was refused, or does not hold.
            TemporaryUnavailable: The issuer does not answer.
        """
        remembered = request.cookies.get(self.cookie, "").split(".")
        if len(remembered) != 3:
            raise AuthenticationFailed("this browser has begun no login; start again at /auth/login")
        state, nonce, verifier = remembered
        offered = request.query_params.get("state", "").encode("utf-8", "replace")
        if not state or not hmac.compare_digest(offered, state.encode("utf-8", "replace")):
            raise AuthenticationFailed("the login is not the one this browser began; start again at /auth/login")
        code = request.query_params.get("code", "")
        if not 0 < len(code) <= _MAX_CODE_CHARS:
            raise AuthenticationFailed("the issuer did not log you in")
        answer = await self._exchange(code, verifier)
        id_token = answer.get("id_token")
        if not isinstance(id_token, str):
            raise AuthenticationFailed("the issuer gave no id token")
        claims = await self._tokens.claims_of(id_token, audience=self._client_id)
        named = claims.get("nonce")
        if not isinstance(named, str) or not hmac.compare_digest(named.encode("utf-8", "replace"), nonce.encode()):
            raise AuthenticationFailed("the id token is of another login")
        principal = await self._principal(claims, answer.get("access_token"))
        return IssuerLogin(principal=principal, sid=_sid(claims))

    async def _exchange(self, code: str, verifier: str) -> dict[str, Any]:
        endpoint = (await self._tokens.issuer.endpoints()).token
        if not endpoint:
            raise TemporaryUnavailable("the issuer names no place to exchange a code at")
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._callback,
            "code_verifier": verifier,
            "client_id": self._client_id,
        }
        # Quoted as RFC 6749, section 2.3.1 says.
        secret = (quote(self._client_id, safe=""), quote(self._client_secret, safe=""))
        timeout_s = self._tokens.issuer.timeout_s
        auth = secret if self._client_secret else None
        return await fetch_json("POST", endpoint, timeout_s=timeout_s, form=form, auth=auth)

    async def _principal(self, claims: dict[str, Any], access_token: object) -> Principal:
        role = role_in(claims, self._tokens.role_claim)
        if role is not None:
            return Principal(name=claims["sub"], role=role)
        # Some issuers put roles into the access token only (Keycloak does unless told otherwise).
        if isinstance(access_token, str):
            access = await self._tokens.claims_of(access_token)
            if access["sub"] == claims["sub"]:
                return self._tokens.principal_of(access)
        raise AuthenticationFailed("neither the id token nor the access token names a role of this service")


def with_query(url: str, query: Mapping[str, str]) -> str:
    """Return an endpoint's address with a query; the endpoint may have one of its own."""
    return f"{url}{'&' if '?' in url else '?'}{urlencode(query)}"


def _sid(claims: Mapping[str, Any]) -> str:
    # It goes into a cookie, and an answer with a cookie that is too large loses it.
    sid = claims.get("sid")
    return sid if isinstance(sid, str) and len(sid) <= _MAX_SID_CHARS and sid.isprintable() else ""
