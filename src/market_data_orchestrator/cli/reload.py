"""``mdo reload``: have the running service take up its configuration."""

from __future__ import annotations

from typing import Annotated

import httpx
import typer

from market_data_core.errors import AuthenticationFailed, ConfigurationError, PipelineError, TemporaryUnavailable
from market_data_core.web.auth import FIRST_KEY_FILE
from market_data_orchestrator.cli.options import AsJson, DataDir
from market_data_orchestrator.cli.output import OUT, print_json
from market_data_orchestrator.cli.status import service_url
from market_data_orchestrator.doors import keys_file
from market_data_orchestrator.settings import OrchestratorSettings, load_settings

_TIMEOUT_S = 60.0


def reload(
    url: Annotated[str | None, typer.Option(envvar="ORCH_URL", help="Base URL of the service.")] = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> int:
    """Have the running service read its configuration again and run what it says, without losing an event.

    All of it or nothing: if anything is wrong, everything goes on as before and the error says what it is. See what
    would change with `mdo plan`. The key is ORCH_API_KEY, or the one that the first start left in the data directory.
    """
    settings = load_settings(data_dir=data_dir)
    base = service_url(url)
    try:
        answer = httpx.post(f"{base}/control/reload", headers=key_header(settings), timeout=_TIMEOUT_S, trust_env=False)
        said = answer.json()
    except (httpx.HTTPError, ValueError) as exc:
        raise TemporaryUnavailable(f"no service answers at {base}: {exc}") from exc
    if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        raise AuthenticationFailed(f"the service refuses: {said.get('detail')}; set ORCH_API_KEY to an admin's key")
    if answer.status_code == httpx.codes.BAD_REQUEST:
        raise ConfigurationError(str(said.get("detail")))
    if not answer.is_success:
        raise PipelineError(str(said.get("detail")))
    if as_json:
        print_json(said)
    else:
        OUT.print(str(said["detail"]), markup=False, highlight=False, soft_wrap=True)
    return 0


def key_header(settings: OrchestratorSettings) -> dict[str, str]:
    """Return the header with the caller's key: the configured one, else that of the first start if it can be read."""
    key = settings.api_key.get_secret_value()
    if not key:
        try:
            key = keys_file(settings).with_name(FIRST_KEY_FILE).read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            return {}
    return {"X-API-Key": key}
