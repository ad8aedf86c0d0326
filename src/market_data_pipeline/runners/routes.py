"""Ingestion control over HTTP: ``/runtime/ingest/*``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Body
from prometheus_client import Counter
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from market_data_core.errors import ConfigurationError
from market_data_core.web import FieldError, Problem, problem_of, problem_response
from market_data_core.web.auth import Authenticator, Role, guarded_route, require
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


def ingest_router(
    controller: IngestController, authenticators: Sequence[Authenticator], *, failures: Counter | None = None
) -> APIRouter:
    """Return the routes, all of them for operators and above.

    Args:
        controller: What they act on; its `running` is entered by whoever mounts them.
        authenticators: Who tells who is calling, tried in order.
        failures: Counts who was not let through, by ``reason``.
    """
    gate = require(Role.OPERATOR, authenticators=authenticators, failures=failures)
    router = APIRouter(prefix="/runtime/ingest", tags=["ingestion"], route_class=guarded_route(gate))

    @router.get("/status")
    async def status() -> dict[str, Any]:
        """What runs and what could."""
        return controller.status()

    @router.post("/start")
    async def start(body: StartRequest) -> dict[str, Any]:
        """Begin to read a provider."""
        try:
            return await controller.start(
                body.provider, symbols=body.symbols, dry_run=body.dry_run, override_params=body.override_params
            )
        except AlreadyRunning as exc:
            raise HTTPException(409, exc.message) from exc

    @router.post("/stop")
    async def stop(body: Annotated[StopRequest | None, Body()] = None) -> dict[str, Any]:
        """Stop reading a provider, or all of them."""
        return await controller.stop(None if body is None else body.provider)

    @router.post("/reload", response_model=dict[str, Any])
    async def reload(request: Request) -> dict[str, Any] | Response:
        """Read the configuration again; if it is wrong the old one stands."""
        try:
            return await controller.reload()
        except ConfigurationError as exc:
            return problem_response(_problem(exc), request.scope)

    return router


# As every error of its kind, and with each mistake of the files by itself.
def _problem(exc: ConfigurationError) -> Problem:
    plain = problem_of(exc)
    errors = tuple(
        FieldError(field=e["field"], detail=f"{e['where']}: {e['detail']}", code="configuration")
        for e in exc.details.get("errors", ())
    )
    return Problem(status=plain.status, title=plain.title, detail=plain.detail, type=plain.type, errors=errors)
