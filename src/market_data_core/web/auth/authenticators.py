"""The ways in which a caller can show who they are."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from starlette.requests import HTTPConnection

from market_data_core.errors import ConfigurationError
from market_data_core.web.auth.keys import KeyStore
from market_data_core.web.auth.roles import Principal, Role

_MAX_KEY_CHARS = 4096


class Authenticator(Protocol):
    """One way to tell who a caller is; a service tries several in order."""

    async def authenticate(self, connection: HTTPConnection) -> Principal | None:
        """Return who is calling, or None if this way does not tell.

        Raises:
            AuthenticationFailed: What was offered is this authenticator's own kind and does not hold, such as a token
                that has expired; the message says why, without the secret.
            TemporaryUnavailable: It cannot be told at present.
        """
        ...


class StoredKeys:
    """Callers who hold a key of a store.

    Args:
        store: The keys.
    """

    def __init__(self, store: KeyStore) -> None:
        self._store = store

    async def authenticate(self, connection: HTTPConnection) -> Principal | None:
        """Return whose key the request carries."""
        key = offered_key(connection)
        return None if key is None else self._store.authenticate(key)


class ConfiguredKey:
    """The one caller who holds the key in the service's configuration.

    Args:
        key: The key.
        name: What its holder is called.
        role: What its holder may do.

    Raises:
        ConfigurationError: The key is empty, which would let everybody in.
    """

    def __init__(self, key: str, *, name: str = "configured-key", role: Role = Role.ADMIN) -> None:
        if not key.strip():
            raise ConfigurationError("the configured API key is empty")
        self._principal = Principal(name=name, role=role)
        # Hashed under a salt of this process, so that comparing takes the same time whatever is offered.
        self._salt = secrets.token_bytes(16)
        self._digest = self._hashed(key)

    async def authenticate(self, connection: HTTPConnection) -> Principal | None:
        """Return the holder if the request carries the key."""
        key = offered_key(connection)
        matches = key is not None and hmac.compare_digest(self._hashed(key), self._digest)
        return self._principal if matches else None

    def _hashed(self, key: str) -> bytes:
        return hashlib.sha256(self._salt + key.encode("utf-8", "surrogatepass")).digest()


def key_authenticators(*, configured: str, keys_file: Path) -> tuple[list[Authenticator], Path | None]:
    """Return how holders of keys get in, and where the key of a first start lies.

    Args:
        configured: The key of the configuration; empty for none.
        keys_file: The key store; it need not be there.

    Returns:
        The authenticators, in the order to be tried, and the file with the key that was made because there was none at
        all; None if there was one.

    Raises:
        ConfigurationError: The store is not as it should be.
        TemporaryUnavailable: It cannot be written.
    """
    store = KeyStore(keys_file)
    if configured:
        return [ConfiguredKey(configured), StoredKeys(store)], None
    return [StoredKeys(store)], store.ensure_first()


def dual_auth(
    keys: Sequence[Authenticator],
    *,
    tokens: Authenticator | None = None,
    sessions: Sequence[Authenticator] = (),
    dual: bool = True,
) -> list[Authenticator]:
    """Return the ways in, in the order to be tried.

    Args:
        keys: Those with keys.
        tokens: Those with tokens; None if tokens are not accepted.
        sessions: Those of browsers. They come last: a cookie is sent along unasked, a header on purpose.
        dual: Are keys accepted beside tokens? Without tokens they always are.
    """
    if tokens is None:
        return [*keys, *sessions]
    return [*(keys if dual else ()), tokens, *sessions]


def offered_key(connection: HTTPConnection) -> str | None:
    """Return the key a request carries: that of ``X-API-Key``, else the token of ``Authorization: Bearer``.

    None if there is neither, or one of them more than once: two callers cannot be told apart.
    """
    for header, scheme in (("x-api-key", ""), ("authorization", "bearer ")):
        values = [value.strip() for value in connection.headers.getlist(header) if value.strip()]
        if not values:
            continue
        value = values[0]
        if len(values) > 1 or not value.lower().startswith(scheme) or len(value) > _MAX_KEY_CHARS:
            return None
        return value[len(scheme) :].strip() or None
    return None
