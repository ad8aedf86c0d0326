"""A disk that is full, or cannot be written, for a while."""

from __future__ import annotations

import subprocess
import time

import pytest

from market_data_pipeline.engine import Engine
from support.crash import reference
from support.crash_child import Life, end_of, settings_of, source_of
from support.crash_verdict import broken_promises

WAIT_S = 30.0
COMPONENTS = [("log", " "), ("lake", "table"), ("consumers", "snapshot")]


@pytest.fixture
def mounted():
    """Mount things until the test is over."""
    places = []

    def mount(*arguments, on):
        on.mkdir(parents=True, exist_ok=True)
        if subprocess.run(["mount", *arguments, str(on)], capture_output=True).returncode:
            pytest.skip("nothing can be mounted here, so a disk cannot be filled or made read-only; run as root")
        places.append(on)

    yield mount
    for place in reversed(places):
        subprocess.run(["umount", "--lazy", str(place)], check=False)


@pytest.fixture
def life(tmp_path):
    return Life(data_dir=str(tmp_path / "data"), count=6000)


def problems_of(engine):
    """What health has to go by, by component."""
    status = engine.status()
    consumers = " ".join(c["problem"] for c in status["consumers"].values()).strip()
    return {"log": status["log"]["problem"], "lake": consumers, "consumers": consumers}


def until(claim):
    give_up = time.monotonic() + WAIT_S
    while not claim():
        assert time.monotonic() < give_up, "it did not come about in time"
        time.sleep(0.01)


@pytest.mark.parametrize(("component", "named"), COMPONENTS)
def test_a_full_disk_is_named_and_nothing_is_lost(tmp_path, mounted, life, component, named):
    """While there is no room the component says so; once there is, everything goes on by itself."""
    folder = tmp_path / "data" / component
    mounted("-t", "tmpfs", "-o", "size=16m", "tmpfs", on=folder)
    engine = Engine(settings_of(life))
    engine.open()
    ballast = folder / "ballast"
    fill(ballast)
    source = source_of(life)
    engine.add(source)
    until(lambda: named in (problems_of(engine)[component] or "nothing"))
    ballast.unlink()
    ended = end_of(engine, source.name, WAIT_S)
    assert broken_promises(reference(life), tmp_path / "data" / "lake", ended, calm=False) == []


@pytest.mark.parametrize(("component", "named"), COMPONENTS)
def test_a_read_only_disk_is_named_and_nothing_is_lost(tmp_path, mounted, life, component, named):
    """While nothing can be written the component says so; once it can, everything goes on by itself."""
    folder = tmp_path / "data" / component
    engine = Engine(settings_of(life))
    engine.open()
    mounted("--bind", str(folder), on=folder)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
    source = source_of(life)
    engine.add(source)
    until(lambda: named in (problems_of(engine)[component] or "nothing"))
    subprocess.run(["mount", "-o", "remount,bind,rw", str(folder)], check=True)
    ended = end_of(engine, source.name, WAIT_S)
    assert broken_promises(reference(life), tmp_path / "data" / "lake", ended, calm=False) == []


def fill(ballast):
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with pytest.raises(OSError, match="No space left"):  # noqa: PT012  it takes many writes
                while True:
                    assert file.write(b"\0" * size)
