"""A disk that fills up under the running service: health says what is wrong, and everything goes on by itself."""

from __future__ import annotations

import subprocess

import pytest

from market_data_store.lake import Lake
from support.service import RunningService, eventually


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 48 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here, so no disk can be filled; run as root")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=False)


def fill(path):
    with path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def trouble(service):
    """What health says is not well, by component."""
    components = service.get("/health").json()["components"]
    return {c["name"]: c["detail"] for c in components if c["state"] != "healthy"}


def test_a_full_disk_is_named_by_health_and_is_over_when_there_is_room(small_disk):
    """Log and store are named with their cause while there is no room; then all is well again and balanced."""
    settings = {"LOG_RESERVE_BYTES": "4M", "LOG_RETENTION": "1s", "PROVIDER_RATE": "2000", "MAINTENANCE_SEC": "0"}
    with RunningService(small_disk / "data", **settings) as service:
        service.wait_healthy()
        ballast = small_disk / "ballast"
        fill(ballast)
        found = eventually(lambda: trouble(service), 30, "health names what is not well")
        assert found.keys() & {"log", "store", "provider"}, found
        eventually(lambda: "log" in trouble(service), 30, "the log is named")
        before = service.get("/status").json()["log"]["end"]
        ballast.unlink()
        eventually(lambda: not trouble(service), 60, "it is healthy again")
        eventually(lambda: service.get("/status").json()["log"]["end"] > before + 2000, 30, "events flow again")
        assert service.get("/status").json()["ledger"]["unaccounted"] == 0
        assert service.stop() == 0
        lake = Lake(service.data_dir / "lake", "default")
        for kind in ("trades", "quotes"):
            seqs = lake.read(kind).column("seq").to_pylist()
            assert len(seqs) == len(set(seqs))
