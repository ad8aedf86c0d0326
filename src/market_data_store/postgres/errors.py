"""What an error of PostgreSQL means to us: one table by SQLSTATE."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from market_data_core.errors import (
    AuthenticationFailed,
    ConfigurationError,
    MarketDataError,
    SchemaValidationError,
    TemporaryUnavailable,
)

# By state, else by class, the first two characters. https://www.postgresql.org/docs/current/errcodes-appendix.html
_BY_STATE: Final[dict[str, type[MarketDataError]]] = {
    "08": TemporaryUnavailable,  # connection
    "22": SchemaValidationError,  # data
    "23": SchemaValidationError,  # integrity
    "23514": TemporaryUnavailable,  # no partition for the row: it was dropped since it was made; the next try makes it
    "25006": TemporaryUnavailable,  # read-only: a standby that is not promoted yet
    "28": AuthenticationFailed,
    "3D": ConfigurationError,  # no such database
    "3F": ConfigurationError,  # no such schema
    "40": TemporaryUnavailable,  # deadlock, serialization
    "42": ConfigurationError,  # no such table or role, no right to it, another version of it
    "53": TemporaryUnavailable,  # disk full, too many connections, out of memory
    "54": ConfigurationError,  # beyond a limit of the server
    "55": TemporaryUnavailable,  # in use, lock not to be had
    "57": TemporaryUnavailable,  # cancelled, shutting down, starting
    "58": TemporaryUnavailable,  # the server's disk
}


def translate(what: str, exc: psycopg.Error) -> MarketDataError:
    """Return what `exc` means to us, in one line that says `what` was being done.

    Errors without a state come from the connection; states that are not in the table are not worth another try.
    """
    lines = str(exc.diag.message_primary or exc).strip().splitlines()
    message = f"{what}: {lines[0] if lines else type(exc).__name__}"
    state = exc.sqlstate
    if state is None:
        broken = isinstance(exc, psycopg.OperationalError | psycopg.InterfaceError)
        return (TemporaryUnavailable if broken else MarketDataError)(message)
    kind = _BY_STATE.get(state) or _BY_STATE.get(state[:2]) or MarketDataError
    return kind(f"{message} (SQLSTATE {state})", details={"sqlstate": state})


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn errors of psycopg and its pool into ours, saying `what` was being done."""
    try:
        yield
    except (PoolTimeout, TooManyRequests, PoolClosed) as exc:
        raise TemporaryUnavailable(f"{what}: no connection to PostgreSQL ({exc})") from exc
    except psycopg.Error as exc:
        raise translate(what, exc) from exc
