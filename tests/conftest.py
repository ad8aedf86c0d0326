from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def recordings():
    """The folder of recorded market data."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("MDP_RECORDINGS") or beside)
    if not (folder / "truth.json").is_file():
        pytest.skip(f"recorded market data is not at {folder}; MDP_RECORDINGS may name another folder")
    return folder
