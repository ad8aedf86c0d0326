from __future__ import annotations

import subprocess

import pytest

from market_data_orchestrator.audit.logger import AuditLogger
from market_data_store.state import State


@pytest.fixture
def state(tmp_path):
    state = State(tmp_path / "state.db")
    yield state
    state.close()


@pytest.fixture
def make(tmp_path, state):
    """Make a logger on the test's folder; all are closed at the end."""
    made = []

    def logger(**changes):
        arguments = {"path": tmp_path / "audit.jsonl", "keys_path": tmp_path / "keys.jsonl", "state": state} | changes
        made.append(AuditLogger(arguments.pop("path"), **arguments))
        return made[-1]

    yield logger
    for one in made:
        one.close()


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 64 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here, so a disk cannot be filled; run as root")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=False)
