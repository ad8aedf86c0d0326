"""Ingestion control over HTTP: ``/runtime/ingest/*``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Final, Protocol

from fastapi import APIRouter, Body
from prometheus_client import Counter
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response

from market_data_core.errors import ConfigurationError
from market_data_core.web import FieldError, Problem, problem_of, problem_response
from market_data_core.web.auth import Authenticator, Gate, Role, guarded_route, require
from market_data_core.web.ratelimit import RateLimits, by_last_segment, guess_limited, limited
from market_data_pipeline.runners.errors import AlreadyRunning
from market_data_pipeline.runners.ingest import IngestController

_Name = Annotated[str, StringConstraints(min_length=1, max_length=64)]


class StartRequest(BaseModel):
    """Which provider to read, and how."""

    # A misspelt `dry_run` must not write.
    model_config = ConfigDict(extra="forbid", frozen=True)

    provider: _Name = Field(description="Its name in data_providers.yaml.")
    symbols: list[_Name] | None = Field(None, max_length=100_000, description="What of it; its entry's when absent.")
    dry_run: bool | None = Field(None, description="Read and count only; what the policy says when absent.")
    override_params: dict[str, Any] = Field(
        default_factory=dict, description="Arguments of its class, of those its entry lists as overridable."
    )


class StopRequest(BaseModel):
    """Which provider to stop."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    provider: _Name | None = Field(None, description="Its name; all that run when absent.")


class Account(Protocol):
    """What an action says of itself while it is on record.

    Attributes:
        detail: What came of it, for people.
    """

    detail: str | None


class Recorder(Protocol):
    """Puts on record what is asked for, by those who are let in and those who are not."""

    def gate(self, role: Role, *, authenticators: Sequence[Authenticator], failures: Counter | None) -> Gate:
        """Return a gate as `require` does that records whom it did not let through."""
        ...

    def acting(
        self, request: Request, *, action: str, target: str, data: Mapping[str, Any]
    ) -> AbstractAsyncContextManager[Account]:
        """Return what is entered while an action is done.

        Args:
            request: Who asks; the gate has left the caller in ``state.principal``.
            action: What for, such as ``runtime.ingest.start``.
            target: The provider it is done to.
            data: Further facts.

        Raises:
            TemporaryUnavailable: It cannot be recorded and has to be; nothing was done.
        """
        ...


class _Unrecorded:
    def gate(self, role: Role, *, authenticators: Sequence[Authenticator], failures: Counter | None) -> Gate:
        return require(role, authenticators=authenticators, failures=failures)

    @asynccontextmanager
    async def acting(
        self, request: Request, *, action: str, target: str, data: Mapping[str, Any]
    ) -> AsyncIterator[Account]:
        del request, action, target, data
        yield _Said()


@dataclass(slots=True)
class _Said:
    detail: str | None = None


LIMITED_ACTIONS: Final = ("ingest_start", "ingest_stop", "ingest_reload")
"""The actions of these routes by the names that rules of limits know them by."""


def ingest_router(
    controller: IngestController,
    authenticators: Sequence[Authenticator],
    *,
    failures: Counter | None = None,
    recorder: Recorder | None = None,
    limits: RateLimits | None = None,
) -> APIRouter:
    """Return the routes, all of them for operators and above.

    Args:
        controller: What they act on; its `running` is entered by whoever mounts them.
        authenticators: Who tells who is calling, tried in order.
        failures: Counts who was not let through, by ``reason``.
        recorder: Puts on record who asked for what; nobody if None.
        limits: Has the rules of `LIMITED_ACTIONS`; nothing is limited if None.
    """
    record = recorder or _Unrecorded()
    gate = record.gate(Role.OPERATOR, authenticators=authenticators, failures=failures)
    if limits is not None:
        gate = limited(guess_limited(gate, limits), limits, action=_action)
    router = APIRouter(prefix="/runtime/ingest", tags=["ingestion"], route_class=guarded_route(gate))

    @router.get("/status")
    async def status() -> dict[str, Any]:
        """What runs and what could."""
        return controller.status()

    @router.post("/start")
    async def start(body: StartRequest, request: Request) -> dict[str, Any]:
        """Begin to read a provider."""
        asked = body.model_dump(exclude={"provider"}, exclude_none=True)
        async with record.acting(request, action="runtime.ingest.start", target=body.provider, data=asked) as account:
            try:
                done = await controller.start(
                    body.provider, symbols=body.symbols, dry_run=body.dry_run, override_params=body.override_params
                )
            except AlreadyRunning as exc:
                raise HTTPException(409, exc.message) from exc
            account.detail = str(done["status"])
            return done

    @router.post("/stop")
    async def stop(request: Request, body: Annotated[StopRequest | None, Body()] = None) -> dict[str, Any]:
        """Stop reading a provider, or all of them."""
        provider = None if body is None else body.provider
        async with record.acting(request, action="runtime.ingest.stop", target=provider or "*", data={}) as account:
            done = await controller.stop(provider)
            account.detail = str(done["status"])
            return done

    @router.post("/reload", response_model=dict[str, Any])
    async def reload(request: Request) -> dict[str, Any] | Response:
        """Read the configuration again; if it is wrong the old one stands."""
        try:
            async with record.acting(request, action="runtime.ingest.reload", target="", data={}):
                return await controller.reload()
        except ConfigurationError as exc:
            return problem_response(_problem(exc), request.scope)

    return router


# `reload` alone would be counted with the reloads of other routes.
def _action(connection: HTTPConnection) -> str:
    return f"ingest_{by_last_segment(connection)}"


# As every error of its kind, and with each mistake of the files by itself.
def _problem(exc: ConfigurationError) -> Problem:
    plain = problem_of(exc)
    errors = tuple(
        FieldError(field=e["field"], detail=f"{e['where']}: {e['detail']}", code="configuration")
        for e in exc.details.get("errors", ())
    )
    return Problem(status=plain.status, title=plain.title, detail=plain.detail, type=plain.type, errors=errors)
