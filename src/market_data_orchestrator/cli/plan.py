"""``mdo plan``: what would the configuration change?"""

from __future__ import annotations

import httpx

from market_data_core.errors import AuthenticationFailed, ConfigurationError, TemporaryUnavailable
from market_data_orchestrator.cli.calls import Url, key_header
from market_data_orchestrator.cli.options import AsJson, DataDir
from market_data_orchestrator.cli.output import OUT, print_json
from market_data_orchestrator.cli.status import service_url
from market_data_orchestrator.cli.validate import ConfigFile
from market_data_orchestrator.config import load_platform, recorded
from market_data_orchestrator.settings import OrchestratorSettings, load_settings
from market_data_pipeline.dag import Blueprint
from market_data_pipeline.dag import plan as compare


def plan(
    file: ConfigFile = None,
    url: Url = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> int:
    """Say what a configuration would change: `+` is added, `~` changed, `-` removed. Changes nothing.

    It is compared with what the running service runs; where none answers, with what ran last in the data directory;
    where nothing ever ran, with nothing. Consumers that are not named go on as they are, with their state; a changed
    one starts with fresh state.

    Example: mdo plan configs/platform.yaml
    """
    settings = load_settings(data_dir=data_dir)
    config = load_platform(file, settings=settings)
    before, against = _running(service_url(url), settings), "what runs"
    if before is None:
        folder = config.applied_to(settings).data_path
        before, against = recorded(folder), f"what ran last in {folder}"
    found = compare(before, config.blueprint())
    if before is None:
        against = "nothing: no service answers, and none has run here"
    if as_json:
        print_json({"against": against, **found.to_dict()})
        return 0
    OUT.print(f"Compared with {against}.\n", markup=False, highlight=False, soft_wrap=True)
    OUT.print(found.to_text(), markup=False, highlight=False, soft_wrap=True, emoji=False)
    return 0


def _running(url: str, settings: OrchestratorSettings) -> Blueprint | None:
    # None where nobody answers, or the service keeps no configuration to compare with.
    try:
        answer = httpx.get(f"{url}/plan", headers=key_header(settings), timeout=5.0, trust_env=False)
    except httpx.TransportError:
        return None
    except (httpx.HTTPError, httpx.InvalidURL) as exc:
        raise ConfigurationError(f"{url} cannot be asked: {exc}") from exc
    if answer.status_code == httpx.codes.NOT_FOUND:
        return None
    if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        raise AuthenticationFailed(f"the service at {url} tells only who may know: set ORCH_API_KEY to a viewer's key")
    try:
        answer.raise_for_status()
        return Blueprint.from_dict(answer.json()["configuration"])
    except (httpx.HTTPError, ValueError, KeyError, TypeError, ConfigurationError) as exc:
        raise TemporaryUnavailable(f"the service at {url} does not say what it runs: {exc}") from exc
