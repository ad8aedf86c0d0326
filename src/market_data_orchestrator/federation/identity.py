"""How a caller's identity travels to a peer, and what it is worth there."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from typing import Final
from urllib.parse import quote

from starlette.requests import HTTPConnection

from market_data_core.errors import AuthenticationFailed, ConfigurationError
from market_data_core.web.auth import Principal, Role, offered_key

ACTOR_HEADER: Final = "X-Forwarded-Actor"
ROLE_HEADER: Final = "X-Forwarded-Role"
HOP_HEADER: Final = "X-Federation-Hop"
"""Names the node a request was forwarded by; who has it is not forwarded again."""

FEDERATED: Final = "federation:"
"""Begins the name of every caller who came over a peer; no local key can be named so."""

_MIN_TOKEN_CHARS: Final = 16
_TOKEN: Final = re.compile(r"[!-~]{1,4096}")
_QUOTED: Final = re.compile(r"[A-Za-z0-9._~%@:+/-]{1,512}")


def checked_token(token: str) -> str:
    """Return the service token if it is one.

    Raises:
        ConfigurationError: It is shorter than 16 characters, or no header can carry it. The message does not show it.
    """
    if len(token) < _MIN_TOKEN_CHARS or _TOKEN.fullmatch(token) is None:
        raise ConfigurationError(
            f"federation token: to be at least {_MIN_TOKEN_CHARS} characters of plain ASCII without spaces"
        )
    return token


def forwarding_headers(*, token: str, node_id: str, caller: Principal) -> dict[str, str]:
    """Return the headers that say to a peer who asks, through whom.

    Args:
        token: The service token.
        node_id: This node.
        caller: Who asked us.
    """
    return {
        "Authorization": f"Bearer {token}",
        ACTOR_HEADER: _quoted(caller.name),
        ROLE_HEADER: caller.role.value,
        HOP_HEADER: _quoted(node_id),
    }


class FederatedCaller:
    """Callers of a peer, which shows the service token and names them.

    What the headers say is believed only with the token. The caller has the lesser of the role the token gives and the
    one they have at home, so neither a peer nor its callers gain rights here.

    Args:
        token: The service token, the same as the peers'.
        role: The most a caller of a peer may do here.

    Raises:
        ConfigurationError: The token is no token.
    """

    def __init__(self, token: str, *, role: Role = Role.OPERATOR) -> None:
        # Hashed under a salt of this process, so that comparing takes the same time whatever is offered.
        self._salt = secrets.token_bytes(16)
        self._digest = self._hashed(checked_token(token))
        self._role = role

    async def authenticate(self, connection: HTTPConnection) -> Principal | None:
        """Return who asked the peer, named ``federation:<node>/<actor>``; None without the token.

        Raises:
            AuthenticationFailed: The token is right, but who asks through whom is not told, or not once.
        """
        key = offered_key(connection)
        if key is None or not hmac.compare_digest(self._hashed(key), self._digest):
            return None
        actor, node = _one(connection, ACTOR_HEADER), _one(connection, HOP_HEADER)
        try:
            role = Role(_one(connection, ROLE_HEADER))
        except ValueError:
            raise AuthenticationFailed(f"{ROLE_HEADER}: to be one of {', '.join(Role)}") from None
        lesser = self._role if role.covers(self._role) else role
        return Principal(name=f"{FEDERATED}{node}/{actor}", role=lesser)

    def _hashed(self, key: str) -> bytes:
        return hashlib.sha256(self._salt + key.encode("utf-8", "surrogatepass")).digest()


def received_from(connection: HTTPConnection) -> str | None:
    """Return what a request says about the node that forwarded it; None if it was not forwarded.

    The header alone counts, well-formed or not: whoever sends it does not have their request sent on.
    """
    return connection.headers.get(HOP_HEADER)


def _one(connection: HTTPConnection, header: str) -> str:
    values = connection.headers.getlist(header)
    if len(values) != 1 or _QUOTED.fullmatch(values[0]) is None:
        raise AuthenticationFailed(f"{header}: to be sent once, percent-encoded, with the service token")
    return values[0]


def _quoted(text: str) -> str:
    # Names of tokens' subjects may hold anything; escaped, they break neither a header nor a log line.
    return quote(text.encode("utf-8", "replace"), safe="@:+")[:512]
