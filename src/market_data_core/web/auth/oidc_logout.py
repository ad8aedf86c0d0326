"""Logout at an OpenID issuer: OpenID Connect RP-Initiated Logout 1.0."""

from __future__ import annotations

import base64
import binascii
import hmac
import logging
import secrets
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from market_data_core.errors import AuthenticationFailed, TemporaryUnavailable
from market_data_core.web.auth.cookies import drop_cookie, redirect, set_cookie
from market_data_core.web.auth.oidc import Issuer
from market_data_core.web.auth.oidc_login import with_query

LOG = logging.getLogger(__name__)

_STATE_S: Final = 600


class OidcLogout:
    """Ends the issuer's session of a browser, too.

    The browser is sent to the issuer's ``end_session_endpoint`` with our client id, and with the issuer's own name for
    its session as ``logout_hint`` where its id token had one (``sid``). The id token itself is kept nowhere: the
    specification asks for it only as a hint, and an issuer that misses it asks the user, who is there. That a browser
    logged in at the issuer, and as which session, is in a cookie of that browser for as long as ours may last.

    Args:
        issuer: Says where browsers log out; at one that does not, only our own session ends.
        client_id: What the issuer knows us as.
        public_url: The URL browsers reach the service by. ``/auth/logged-out`` below it must be registered at the
            issuer as an address to come back to after a logout.

    Source:
        https://openid.net/specs/openid-connect-rpinitiated-1_0.html
    """

    def __init__(self, issuer: Issuer, *, client_id: str, public_url: str) -> None:
        self._issuer = issuer
        self._client_id = client_id
        self._back = f"{public_url.rstrip('/')}/auth/logged-out"
        self._secure = public_url.lower().startswith("https://")
        prefix = "__Host-" if self._secure else ""
        self._mark = f"{prefix}mdo_issuer"
        self._state = f"{prefix}mdo_logout"

    def mark(self, answer: Response, sid: str, *, max_age_s: int) -> None:
        """Have the browser remember that it logged in at the issuer.

        Args:
            answer: Takes the cookie.
            sid: What the issuer calls its session; may be empty.
            max_age_s: How long our own session may last, seconds.
        """
        # Never empty, which would be no cookie; and in an alphabet that needs no quotes.
        coded = base64.urlsafe_b64encode(f".{sid}".encode()).rstrip(b"=").decode()
        set_cookie(answer, self._mark, coded, secure=self._secure, max_age_s=max_age_s)

    def unmark(self, answer: Response) -> None:
        """Have it forget that: it is logged in otherwise, or no more."""
        drop_cookie(answer, self._mark, secure=self._secure)

    async def begin(self, request: Request) -> Response | None:
        """Return where the browser is to go to end the issuer's session: an answer with ``end_session_url``.

        None if it did not log in there, the issuer ends no sessions, or it cannot be asked where.
        """
        coded = request.cookies.get(self._mark)
        endpoint = "" if coded is None else await self._endpoint()
        if coded is None or not endpoint:
            return None
        state = secrets.token_urlsafe(32)
        query = {"client_id": self._client_id, "post_logout_redirect_uri": self._back, "state": state}
        sid = _decoded(coded)
        url = with_query(endpoint, {**query, "logout_hint": sid} if sid else query)
        answer = JSONResponse({"end_session_url": url}, headers={"cache-control": "no-store"})
        set_cookie(answer, self._state, state, secure=self._secure, max_age_s=_STATE_S)
        return answer

    def finish(self, request: Request, *, home: str) -> Response:
        """Return the way home for a browser that the issuer sent back.

        Raises:
            AuthenticationFailed: This browser has begun no such logout.
        """
        begun = request.cookies.get(self._state, "")
        offered = request.query_params.get("state", "").encode("utf-8", "replace")
        if not begun or not hmac.compare_digest(offered, begun.encode("utf-8", "replace")):
            raise AuthenticationFailed("the logout is not one that this browser began")
        answer = redirect(home)
        drop_cookie(answer, self._state, secure=self._secure)
        return answer

    async def _endpoint(self) -> str:
        try:
            return (await self._issuer.endpoints()).end_session
        except TemporaryUnavailable as exc:
            # Our own session has ended, and that is not to look like a failure.
            LOG.warning("a session at the issuer may go on: %s", exc.message)
            return ""


def _decoded(coded: str) -> str:
    # Whatever a browser sends: without a hint the issuer asks the user.
    try:
        return base64.urlsafe_b64decode(coded + "=" * (-len(coded) % 4)).decode()[1:]
    except (binascii.Error, ValueError):
        return ""
