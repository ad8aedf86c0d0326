"""Auditing what requests ask for: those that are let in, and those that are not."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from prometheus_client import Counter
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from market_data_core.errors import AuthenticationFailed, TemporaryUnavailable
from market_data_core.web.auth import Authenticator, Gate, Principal, Role, offered_key, require
from market_data_core.web.problems import problem_of
from market_data_orchestrator.audit.logger import Decision, Status
from market_data_orchestrator.audit.ports import AuditLogger

LOG = logging.getLogger(__name__)

NOBODY: Final = "anonymous"
"""The actor of a request whose caller could not be told."""

# What is shorter is no key, but may be an ordinary word.
_MIN_KEY_CHARS: Final = 16
_REFUSALS: Final = frozenset({401, 403, 429})


@dataclass(slots=True, kw_only=True)
class Trail:
    """What an action says about itself while it is done.

    Attributes:
        detail: What came of it, for people.
        failed: True if it did not do what was asked, though nothing was raised.
        data: Further facts.
    """

    detail: str | None = None
    failed: bool = False
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What came of an action or attempt.

    Attributes:
        status: What, in one word.
        detail: The same for people.
        decision: Whether it was allowed.
    """

    status: Status
    detail: str | None
    decision: Decision = "allowed"


@asynccontextmanager
async def audited(
    logger: AuditLogger,
    request: HTTPConnection,
    *,
    action: str,
    target: str = "",
    data: Mapping[str, Any] | None = None,
) -> AsyncIterator[Trail]:
    """Do an action on the record: ``ok``, ``error``, ``cancelled`` or ``denied`` (401, 403, 429), and how long it took.

    Where records are required, one of status ``begun`` comes first, and without it nothing is done. An outcome that
    cannot be recorded after that takes nothing back: what was done is told as it is, the loss is counted and logged.

    Args:
        logger: Where to.
        request: Whose gate has left the caller in ``state.principal``.
        action: What is asked for; see `AuditLogger.record`.
        target: What it is done to.
        data: Further facts.

    Raises:
        TemporaryUnavailable: It cannot be recorded, and records are required; nothing was done.
    """
    trail = Trail(data=dict(data or {}))
    began_s = time.monotonic()
    if logger.required:
        begun = Outcome(status="begun", detail=None)
        await put_on_record(logger, request, action=action, target=target, outcome=begun, data=trail.data)
    outcome = Outcome(status="error", detail=None)
    try:
        yield trail
        outcome = Outcome(status="error" if trail.failed else "ok", detail=trail.detail)
    except asyncio.CancelledError:
        outcome = Outcome(status="cancelled", detail="the caller went away, or the service stops")
        raise
    except Exception as exc:
        refused = problem_of(exc).status in _REFUSALS
        said = str(exc.detail) if isinstance(exc, HTTPException) else f"{type(exc).__name__}: {exc}"
        outcome = (
            Outcome(status="denied", detail=said, decision="denied")
            if refused
            else Outcome(status="error", detail=said)
        )
        raise
    finally:
        took_s = time.monotonic() - began_s
        try:
            await put_on_record(
                logger, request, action=action, target=target, outcome=outcome, data=trail.data, duration_s=took_s
            )
        except TemporaryUnavailable as exc:
            LOG.error("%s is done, and its outcome (%s) is not recorded: %s", action, outcome.status, exc)


def audited_gate(
    logger: AuditLogger,
    role: Role,
    *,
    authenticators: Sequence[Authenticator],
    failures: Counter | None = None,
    action: str | None = None,
) -> Gate:
    """Return a gate as `require` does that records whom it did not let through.

    A refusal stands whether it can be recorded or not.

    Args:
        logger: Where to.
        role: The least role.
        authenticators: Tried in order.
        failures: Counts who was not let through.
        action: What is asked for behind it; by the route, such as ``pause`` for ``/control/pause``, if not given.
    """
    inner = require(role, authenticators=[_Remembering(known) for known in authenticators], failures=failures)

    async def gate(connection: HTTPConnection) -> Principal:
        try:
            return await inner(connection)
        except (AuthenticationFailed, HTTPException) as exc:
            outcome = Outcome(status="denied", detail=_said(exc), decision="denied")
            named = action or action_of(connection)
            try:
                await put_on_record(logger, connection, action=named, target=path_of(connection), outcome=outcome)
            except TemporaryUnavailable as lost:
                LOG.error("a refusal of %s is not recorded: %s", named, lost)
            raise

    return gate


def action_of(connection: HTTPConnection) -> str:
    """Return a name for what a route does: its path with dots, without ``/control`` and without what varies."""
    route = connection.scope.get("route")
    # The template, not the path: callers can make up paths, and each name is a series of the metric.
    template = re.sub(r"\{[^}]*\}", "", str(getattr(route, "path", "")))
    parts = [part for part in re.findall(r"[a-z0-9_-]+", template.lower()) if part != "control"]
    return ".".join(parts)[:64].strip(".") or "request"


class _Remembering:
    # Leaves whom it recognised on the request: a gate that refuses a role does not say whose it was.
    def __init__(self, inner: Authenticator) -> None:
        self._inner = inner

    async def authenticate(self, connection: HTTPConnection) -> Principal | None:
        principal = await self._inner.authenticate(connection)
        if principal is not None:
            connection.state.recognised = principal
        return principal


async def put_on_record(
    logger: AuditLogger,
    connection: HTTPConnection,
    *,
    action: str,
    target: str,
    outcome: Outcome,
    data: Mapping[str, Any] | None = None,
    duration_s: float | None = None,
) -> None:
    """Write down what came of a request, and whose it was as far as a gate has told.

    Args:
        logger: Where to.
        connection: The request; what it carries as a key is not written down.
        action: What was asked for; see `AuditLogger.record`.
        target: What it was to be done to.
        outcome: What came of it.
        data: Further facts.
        duration_s: How long it took, seconds.

    Raises:
        TemporaryUnavailable: It cannot be recorded, and records are required.
    """
    state = connection.state
    caller: Principal | None = getattr(state, "principal", None) or getattr(state, "recognised", None)
    await asyncio.to_thread(
        logger.record,
        action=action,
        actor=NOBODY if caller is None else caller.name,
        role="" if caller is None else str(caller.role),
        status=outcome.status,
        detail=outcome.detail,
        decision=outcome.decision,
        target=target,
        address="" if connection.client is None else connection.client.host,
        duration_s=None if duration_s is None else round(duration_s, 6),
        data=data,
        secrets=_offered(connection),
    )


def _offered(connection: HTTPConnection) -> list[str]:
    # What a caller shows as a key must not come back from the log, also where it is not one of ours.
    offered = [*connection.headers.getlist("x-api-key"), *connection.cookies.values(), offered_key(connection) or ""]
    return [value.strip() for value in offered if len(value.strip()) >= _MIN_KEY_CHARS]


def path_of(connection: HTTPConnection) -> str:
    """Return the path of a request, without its query."""
    return str(connection.scope.get("path", ""))


def _said(exc: AuthenticationFailed | HTTPException) -> str:
    return exc.message if isinstance(exc, AuthenticationFailed) else str(exc.detail)
