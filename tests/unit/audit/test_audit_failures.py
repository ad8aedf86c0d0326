"""Crashes, full disks, second writers: what the audit trail does when it cannot be written."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

import pytest
from prometheus_client import CollectorRegistry

from market_data_core.errors import ConfigurationError, TemporaryUnavailable
from market_data_orchestrator.audit.chain import RECOVERED
from market_data_orchestrator.audit.logger import AuditLogger, audit_counter, configure_audit, get_audit_logger
from market_data_orchestrator.settings import OrchestratorSettings

CHILD = """
import sys
from pathlib import Path
from market_data_orchestrator.audit.logger import AuditLogger
from market_data_store.state import State
folder = Path(sys.argv[1])
logger = AuditLogger(folder / "audit.jsonl", keys_path=folder / "keys.jsonl", state=State(folder / "state.db"),
                     max_bytes=20000)
number = 0
while True:
    logger.record(action="pause", actor=str(number), role="operator", detail="x" * 500)
    print(number, flush=True)
    number += 1
"""


@pytest.mark.parametrize("after", [1, 30, 75])
def test_audit_killed_writer_loses_nothing_acknowledged(tmp_path, make, after):
    """After kill -9 the chain is whole and has every record that was acknowledged."""
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    for _ in range(after):
        child.stdout.readline()
    os.kill(child.pid, signal.SIGKILL)
    acknowledged = [int(line) for line in child.stdout.read().splitlines()] or [after - 1]
    child.wait()
    child.stdout.close()
    logger = make()
    assert logger.verify().ok
    logger.record(action="resume", actor="later", role="operator")
    verdict = logger.verify()
    assert verdict.ok, verdict
    actors = {int(e["actor"]) for e in logger.read(action="pause", limit=1000).events}
    assert actors >= set(range(max(acknowledged) + 1))


def test_audit_torn_line_is_moved_aside_and_recorded(make, tmp_path):
    """A line cut in mid-write is kept beside the log, counted, and an event of its own."""
    logger = make()
    logger.record(action="pause", actor="ann", role="operator")
    logger.close()
    path = tmp_path / "audit.jsonl"
    torn = path.read_bytes().splitlines()[0][:50]
    with path.open("ab") as file:
        file.write(torn)
    verdict = make().verify()
    assert verdict.ok
    assert verdict.torn_bytes == 50
    again = make()
    again.record(action="resume", actor="ann", role="operator")
    assert again.recovered == 1
    assert (tmp_path / "audit.jsonl.torn-1").read_bytes() == torn
    assert again.read(action=RECOVERED).events[0]["data"] == {"torn_bytes": 50}
    assert again.verify().ok
    assert again.verify().torn_bytes == 0


def fill(path):
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(512))


def until_lost(logger):
    # The page the log ends in has room for a few more.
    for _ in range(20):
        logger.record(action="pause", actor="full", role="admin", detail="x" * 900)


@pytest.mark.parametrize("required", [True, False])
def test_audit_full_disk_follows_the_policy(small_disk, tmp_path, state, required):
    """A full disk refuses or goes on, as set; the chain stays whole, and writes again once there is room."""
    counter = audit_counter(CollectorRegistry())
    logger = AuditLogger(
        small_disk / "audit.jsonl", keys_path=tmp_path / "keys", state=state, required=required, counter=counter
    )
    logger.record(action="pause", actor="before", role="admin")
    filler = small_disk / "filler"
    fill(filler)
    if required:
        with pytest.raises(TemporaryUnavailable, match="pause cannot be recorded"):
            until_lost(logger)
    else:
        until_lost(logger)
    assert logger.lost > 0
    assert logger.problem
    assert counter.labels(action="pause", status="lost")._value.get() == logger.lost
    assert logger.verify().ok
    filler.unlink()
    assert logger.record(action="pause", actor="after", role="admin") is not None
    assert logger.problem == ""
    assert logger.verify().ok
    assert logger.verify().torn_bytes == 0
    logger.close()


def test_audit_one_process_writes(make):
    """A second writer is refused while the first has the log, and can write after it."""
    first, second = make(), make(required=True)
    first.record(action="pause", actor="one", role="admin")
    with pytest.raises(TemporaryUnavailable):
        second.record(action="pause", actor="two", role="admin")
    assert "another process" in second.problem
    first.close()
    assert second.record(action="pause", actor="two", role="admin") is not None
    assert second.verify().ok


def test_audit_open_keys_stop_nothing_unless_required(make, tmp_path):
    """Keys that others can read are named; without the policy the action goes on."""
    (tmp_path / "keys.jsonl").write_text("")
    (tmp_path / "keys.jsonl").chmod(0o644)
    logger = make()
    assert logger.record(action="pause", actor="ann", role="admin") is None
    assert "chmod 600" in logger.problem


def test_audit_configured_logger_is_the_one_of_the_process(tmp_path, state):
    """`get_audit_logger` gives what was configured; secrets of the settings are known to it."""
    settings = OrchestratorSettings(
        _env_file=None, data_dir=tmp_path, audit_log_path=tmp_path / "a.jsonl", api_key="a key that is set"
    )
    logger = configure_audit(settings, state)
    try:
        assert get_audit_logger() is logger
        logger.record(action="pause", actor="ann", role="admin", detail="with a key that is set")
        assert "that is set" not in (tmp_path / "a.jsonl").read_text()
        off = configure_audit(settings.model_copy(update={"audit_log_enabled": False}), state)
        assert off.record(action="pause", actor="ann", role="admin") is None
        assert off.lost == 0
        with pytest.raises(ConfigurationError):
            configure_audit(settings.model_copy(update={"audit_log_enabled": False, "audit_required": True}), state)
    finally:
        get_audit_logger().close()
