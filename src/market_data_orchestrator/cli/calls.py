"""What a command asks a running service: with the operator's key, answers as values, refusals as our own errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Annotated, Any

import httpx
import typer

from market_data_core.errors import (
    AuthenticationFailed,
    ConfigurationError,
    PipelineError,
    TemporaryUnavailable,
    ValidationError,
)
from market_data_core.web.auth import FIRST_KEY_FILE
from market_data_orchestrator.cli.status import service_url
from market_data_orchestrator.settings import OrchestratorSettings

_TIMEOUT_S = 60.0
_MAX_PAGE = 1000  # as the service's lists allow

Url = Annotated[str | None, typer.Option(envvar="ORCH_URL", help="Base URL of the service.")]
AskedUrl = Annotated[
    str | None,
    typer.Option(
        envvar="ORCH_URL", help="Ask the service at this base URL instead of reading the data.", show_default=False
    ),
]


class Calls:
    """Requests to one service, as its operator.

    Args:
        url: Base URL; None for the one the settings name.
        settings: Have the key, or say where that of the first start is.
    """

    def __init__(self, url: str | None, settings: OrchestratorSettings) -> None:
        self.base = service_url(url)
        self._headers = key_header(settings)

    def get(self, path: str, params: Mapping[str, Any] | None = None) -> Any:
        """Return what a route answers; parameters that are None are left out.

        Raises:
            TemporaryUnavailable: Nobody answers there, or not as the service does.
            MarketDataError: As `checked`.
        """
        given = {name: value for name, value in (params or {}).items() if value is not None}
        return checked(self._sent("GET", path, params=given), self.base)

    def rows(self, path: str, params: Mapping[str, Any] | None = None, *, limit: int | None = None) -> list[Any]:
        """Return the first rows of a list, all if `limit` is None; raises as `get`."""
        return list(islice(self.walk(path, params, page=min(limit or _MAX_PAGE, _MAX_PAGE)), limit))

    def walk(self, path: str, params: Mapping[str, Any] | None = None, *, page: int = _MAX_PAGE) -> Iterator[Any]:
        """Give the rows of a list, fetched a page at a time; raises as `get`."""
        asked = {**(params or {}), "limit": page}
        while True:
            answer = self.get(path, asked)
            try:
                rows, following = list(answer["items"]), answer["next"]
            except (KeyError, TypeError) as exc:
                raise TemporaryUnavailable(f"what answers at {self.base} is not this service: no list") from exc
            yield from rows
            if following is None:
                return
            asked["cursor"] = following

    def post(self, path: str, body: Any = None, *, key: str) -> httpx.Response:
        """Return a route's answer as it is, once more where the connection broke under the first attempt.

        Args:
            path: Of the route.
            body: Sent as JSON; None for none.
            key: The idempotency key, so that the repeat is no second action.

        Raises:
            TemporaryUnavailable: Nobody answers there.
        """
        headers = {"Idempotency-Key": key}
        try:
            return self._sent("POST", path, json=body, headers=headers)
        except TemporaryUnavailable as exc:
            if not isinstance(exc.__cause__, httpx.RemoteProtocolError):
                raise
        return self._sent("POST", path, json=body, headers=headers)

    def _sent(self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **rest: Any) -> httpx.Response:
        headers = {**self._headers, **(headers or {})}
        try:
            return httpx.request(
                method, f"{self.base}{path}", headers=headers, timeout=_TIMEOUT_S, trust_env=False, **rest
            )
        except httpx.InvalidURL as exc:
            raise ConfigurationError(f"{self.base} cannot be asked: {exc}") from exc
        except httpx.HTTPError as exc:
            raise TemporaryUnavailable(f"no service answers at {self.base}: {exc}; start it with `mdo up`") from exc


def checked(answer: httpx.Response, base: str) -> Any:
    """Return the JSON value of an answer.

    Raises:
        AuthenticationFailed: The key may not ask that; says where to put another.
        ConfigurationError: The service says that a setting or its configuration is wrong.
        ValidationError: It says that what was asked is wrong.
        TemporaryUnavailable: It is busy or starting, or what answers is something else.
        PipelineError: It could not do it.
    """
    said = detail_of(answer, base)
    if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        raise AuthenticationFailed(f"the service refuses: {said}; set ORCH_API_KEY to a key that may")
    if answer.status_code == httpx.codes.BAD_REQUEST:
        raise ConfigurationError(said)
    if answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY:
        raise ValidationError(said)
    if answer.status_code in (httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.TOO_MANY_REQUESTS):
        raise TemporaryUnavailable(said)
    if not answer.is_success:
        raise PipelineError(said)
    return answer.json()


def detail_of(answer: httpx.Response, base: str) -> str:
    """Return the sentence with which an answer says what it is about; empty where it has none.

    Raises:
        TemporaryUnavailable: It is no JSON, so something else than the service answers there.
    """
    try:
        said = answer.json()
    except ValueError as exc:
        raise TemporaryUnavailable(f"no service answers at {base}: {answer.status_code} and no JSON") from exc
    return str(said.get("detail", "")) if isinstance(said, dict) else ""


def key_header(settings: OrchestratorSettings) -> dict[str, str]:
    """Return the header with the caller's key: the configured one, else that of the first start if it can be read."""
    key = settings.api_key.get_secret_value()
    if not key:
        try:
            key = settings.keys_path.with_name(FIRST_KEY_FILE).read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            return {}
    return {"X-API-Key": key}
