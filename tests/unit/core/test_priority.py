"""Giving way on the processor."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from market_data_core import priority

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="priorities of sessions are Linux's")


@pytest.fixture(params=[True, False], ids=["own session", "same session"])
def child(request):
    process = subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=request.param
    )
    yield process, request.param
    process.communicate(b"\n", timeout=10)


def test_a_process_gives_way_and_so_does_its_session_if_it_has_one(child):
    """Niceness alone means nothing between sessions; the session of others is never touched."""
    process, leads = child
    group = Path(f"/proc/{process.pid}/autogroup")
    # The file is there but says nothing where a control group shares the processor in place of sessions.
    before = group.read_text().split() if group.exists() else []
    priority.lower(19, process.pid)
    assert os.getpriority(os.PRIO_PROCESS, process.pid) == 19
    if not before:
        pytest.skip("the niceness holds; this kernel does not share the processor between sessions")
    assert group.read_text().split()[-1] == ("19" if leads else before[-1])


def test_a_process_that_has_ended_is_nobodys_error():
    """Between its start and our call it may be gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    priority.lower(5, process.pid)
