"""What an error of PostgreSQL means to us: one table by SQLSTATE."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg_pool import PoolClosed, PoolTimeout, TooManyRequests

from market_data_core.errors import (
    AuthenticationFailed,
    ConfigurationError,
    MarketDataError,
    SchemaValidationError,
    TemporaryUnavailable,
)

_CHECK_VIOLATION: Final = "23514"

# By state, else by class, the first two characters. https://www.postgresql.org/docs/current/errcodes-appendix.html
_BY_STATE: Final[dict[str, type[MarketDataError]]] = {
    "08": TemporaryUnavailable,  # connection
    "22": SchemaValidationError,  # data
    "23": SchemaValidationError,  # integrity
    # Where it names no constraint: no partition for the row. It was dropped since it was made; the next try makes it.
    _CHECK_VIOLATION: TemporaryUnavailable,
    "25006": TemporaryUnavailable,  # read-only: a standby that is not promoted yet
    "28": AuthenticationFailed,
    "3D": ConfigurationError,  # no such database
    "3F": ConfigurationError,  # no such schema
    "40": TemporaryUnavailable,  # deadlock, serialization
    "42": ConfigurationError,  # no such table or role, no right to it, another version of it
    "53": TemporaryUnavailable,  # disk full, too many connections, out of memory
    "54": ConfigurationError,  # beyond a limit of the server
    "54000": SchemaValidationError,  # a text that is too long for the index of a key
    "55": TemporaryUnavailable,  # in use, lock not to be had
    "57": TemporaryUnavailable,  # cancelled, shutting down, starting
    "58": TemporaryUnavailable,  # the server's disk
}


# Where the server stopped reading what it was given: "COPY staging_bars, line 3, column symbol".
_COPY_LINE: Final = re.compile(r"^COPY \S+, line (\d+)(?:, column (\S+))?", re.MULTILINE)


def translate(what: str, exc: psycopg.Error) -> MarketDataError:
    """Return what `exc` means to us, in one line that says `what` was being done.

    Its ``details`` have the ``sqlstate`` and, where the server says so, ``constraint``, ``table``, ``column`` and the
    ``row`` of those that were being copied, from 0. Errors without a state come from the connection or from values that
    cannot be said to a server; states that are not in the table are not worth another try.
    """
    lines = str(exc.diag.message_primary or exc).strip().splitlines()
    message = f"{what}: {lines[0] if lines else type(exc).__name__}"
    state = exc.sqlstate
    if state is None:
        if isinstance(exc, psycopg.DataError):
            return SchemaValidationError(message)
        # Rows that were followed by the end of the connection are two answers to psycopg, an InternalError.
        broken = isinstance(exc, psycopg.OperationalError | psycopg.InterfaceError | psycopg.InternalError)
        return (TemporaryUnavailable if broken else MarketDataError)(message)
    if state == _CHECK_VIOLATION and exc.diag.constraint_name is not None:
        state = state[:2]
    kind = _BY_STATE.get(state) or _BY_STATE.get(state[:2]) or MarketDataError
    return kind(f"{message} (SQLSTATE {exc.sqlstate})", details={"sqlstate": exc.sqlstate, **_place(exc.diag)})


def _place(diag: psycopg.errors.Diagnostic) -> dict[str, Any]:
    found = {"constraint": diag.constraint_name, "table": diag.table_name, "column": diag.column_name}
    place: dict[str, Any] = {k: v for k, v in found.items() if v is not None}
    # Other errors come upon a row by chance.
    at_fault = (diag.sqlstate or "")[:2] in {"22", "23"}
    if at_fault and (copied := _COPY_LINE.search(diag.context or "")) is not None:
        place["row"] = int(copied[1]) - 1
        if copied[2] is not None:
            place["column"] = copied[2]
    return place


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Turn errors of psycopg and its pool into ours, saying `what` was being done."""
    try:
        yield
    except (PoolTimeout, TooManyRequests, PoolClosed) as exc:
        raise TemporaryUnavailable(f"{what}: no connection to PostgreSQL ({exc})") from exc
    except psycopg.Error as exc:
        raise translate(what, exc) from exc
