"""``mdo pause``, ``mdo resume`` and ``mdo reload``: tell the running service what to do."""

from __future__ import annotations

import uuid

from market_data_core.telemetry import ControlAction
from market_data_orchestrator.cli.calls import Calls, Url, checked
from market_data_orchestrator.cli.options import AsJson, DataDir
from market_data_orchestrator.cli.output import print_json, say
from market_data_orchestrator.settings import OrchestratorSettings, load_settings


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
    calls = Calls(url, settings)
    # A repeat after a broken connection must not be a second action.
    said = checked(calls.post(f"/control/{action}", key=uuid.uuid4().hex), calls.base)
    if as_json:
        print_json(said)
    else:
        say(str(said["detail"]))
    return 0
