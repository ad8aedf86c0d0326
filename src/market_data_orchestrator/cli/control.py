"""``mdo pause``, ``mdo resume`` and ``mdo reload``: tell the running service what to do."""

from __future__ import annotations

import uuid
from typing import Annotated

import httpx
import typer

from market_data_core.errors import AuthenticationFailed, ConfigurationError, PipelineError, TemporaryUnavailable
from market_data_core.telemetry import ControlAction
from market_data_core.web.auth import FIRST_KEY_FILE
from market_data_orchestrator.cli.options import AsJson, DataDir
from market_data_orchestrator.cli.output import OUT, print_json
from market_data_orchestrator.cli.status import service_url
from market_data_orchestrator.doors import keys_file
from market_data_orchestrator.settings import OrchestratorSettings, load_settings

_TIMEOUT_S = 60.0
Url = Annotated[str | None, typer.Option(envvar="ORCH_URL", help="Base URL of the service.")]


def pause(url: Url = None, as_json: AsJson = False, data_dir: DataDir = None) -> int:
    """Have the running service stop taking events in, and store what it has received.

    Once this returns, nothing that comes is stored; a live feed has a gap of cause `paused` from here on. It stays
    paused over a restart, until `mdo resume`. The key is ORCH_API_KEY, or the one that the first start left in the data
    directory.
    """
    return _run(ControlAction.PAUSE, url, as_json=as_json, settings=load_settings(data_dir=data_dir))


def resume(url: Url = None, as_json: AsJson = False, data_dir: DataDir = None) -> int:
    """Have the running service take events in again, after `mdo pause`."""
    return _run(ControlAction.RESUME, url, as_json=as_json, settings=load_settings(data_dir=data_dir))


def reload(url: Url = None, as_json: AsJson = False, data_dir: DataDir = None) -> int:
    """Have the running service read its configuration again and run what it says, without losing an event.

    All of it or nothing: if anything is wrong, everything goes on as before and the error says what it is. See what
    would change with `mdo plan`. The key is ORCH_API_KEY, or the one that the first start left in the data directory.
    """
    return _run(ControlAction.RELOAD, url, as_json=as_json, settings=load_settings(data_dir=data_dir))


def _run(action: ControlAction, url: str | None, *, as_json: bool, settings: OrchestratorSettings) -> int:
    base = service_url(url)
    # A repeat after a broken connection must not be a second action.
    headers = key_header(settings) | {"Idempotency-Key": uuid.uuid4().hex}
    try:
        answer = _post(f"{base}/control/{action}", headers)
        said = answer.json()
    except (httpx.HTTPError, ValueError) as exc:
        raise TemporaryUnavailable(f"no service answers at {base}: {exc}") from exc
    if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        raise AuthenticationFailed(f"the service refuses: {said.get('detail')}; set ORCH_API_KEY to a key that may")
    if answer.status_code == httpx.codes.BAD_REQUEST:
        raise ConfigurationError(str(said.get("detail")))
    if not answer.is_success:
        raise PipelineError(str(said.get("detail")))
    if as_json:
        print_json(said)
    else:
        OUT.print(str(said["detail"]), markup=False, highlight=False, soft_wrap=True)
    return 0


def _post(url: str, headers: dict[str, str]) -> httpx.Response:
    try:
        return httpx.post(url, headers=headers, timeout=_TIMEOUT_S, trust_env=False)
    except httpx.RemoteProtocolError:
        return httpx.post(url, headers=headers, timeout=_TIMEOUT_S, trust_env=False)


def key_header(settings: OrchestratorSettings) -> dict[str, str]:
    """Return the header with the caller's key: the configured one, else that of the first start if it can be read."""
    key = settings.api_key.get_secret_value()
    if not key:
        try:
            key = keys_file(settings).with_name(FIRST_KEY_FILE).read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            return {}
    return {"X-API-Key": key}
