from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

# A landing is judged by the same examples every time; developers' runs look for new ones.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


# A shell that runs the tests in the background has Ctrl-C ignored, in them and in every program they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def recordings():
    """The folder of recorded market data."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("MDP_RECORDINGS") or beside)
    if not (folder / "truth.json").is_file():
        pytest.skip(f"recorded market data is not at {folder}; MDP_RECORDINGS may name another folder")
    return folder
