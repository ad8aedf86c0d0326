"""What runs goes on after a restart."""

from __future__ import annotations

import json
import stat

import pytest

from market_data_core import disk
from market_data_core.clock import ManualClock
from market_data_core.errors import LogLocked, PermissionsMissing, TemporaryUnavailable
from market_data_pipeline.runners.orders import IngestOrder, OrderFile
from support import powerloss

NOW_NS = 1_700_000_000_000_000_000


def runs_of(controller):
    return {run["provider"]: run for run in controller.status()["runs"]}


async def live(controller, eventually, provider="synthetic"):
    return await eventually(
        lambda: (run := runs_of(controller).get(provider)) and run["state"] == "live" and run, f"{provider} is live"
    )


async def test_what_was_running_runs_again(desk, eventually):
    """As it was started, since when it was started; what had been stopped does not."""
    synthetic = {"provider": "synthetic", "enabled": True, "symbols": ["A"], "overridable": ["rate"]}
    desk.providers(stays=synthetic, stopped=synthetic)
    async with desk.opened() as controller:
        await controller.start("stays", symbols=["msft"], dry_run=True, override_params={"rate": 5000})
        await controller.start("stopped", dry_run=True)
        await controller.stop("stopped")
        before = runs_of(controller)["stays"]
    assert desk.count("ingest_stops_total", provider="stays", reason="shutdown") == 1
    desk.restarted()
    async with desk.opened() as controller:
        after = await live(controller, eventually, "stays")
        assert list(runs_of(controller)) == ["stays"]
        assert (after["symbols"], after["dry_run"], after["since_ns"]) == (["MSFT"], True, before["since_ns"])
        assert desk.count("ingest_starts_total", provider="stays") == 1
        assert desk.count("ingest_active", provider="stays") == 1
        await controller.stop()
    async with desk.opened() as controller:
        assert controller.status()["running"] is False


async def test_the_remaining_time_survives(desk, eventually):
    """Time in which nothing ran counts; a run whose time is over ends as such, without having been begun."""
    desk.clock = clock = ManualClock(NOW_NS)
    desk.policy(write_path={"max_runtime_seconds": 60})
    async with desk.opened() as controller:
        await controller.start("synthetic", dry_run=True)
        clock.advance(20)
    clock.advance(10)
    async with desk.opened() as controller:
        await eventually(lambda: runs_of(controller)["synthetic"]["state"] != "resuming", "it runs again")
        assert runs_of(controller)["synthetic"]["remaining_seconds"] == 30
    clock.advance(31)
    desk.restarted()
    async with desk.opened() as controller:
        await eventually(lambda: not controller.status()["running"], "it is over")
        assert desk.count("ingest_stops_total", provider="synthetic", reason="auto_duration_reached") == 1
        assert desk.count("ingest_starts_total", provider="synthetic") == 0
    async with desk.opened() as controller:
        assert controller.status()["running"] is False


@pytest.mark.parametrize("error", [TemporaryUnavailable("the store is away"), LogLocked("in use")])
async def test_a_writer_that_is_away_is_tried_again(desk, eventually, error):
    """The run is shown as resuming, with the cause, until it is back; a shutdown meanwhile does not forget it."""
    desk.clock = clock = ManualClock(NOW_NS)
    async with desk.opened() as controller:
        await controller.start("synthetic")
    desk.refusal = error
    for _ in range(2):
        async with desk.opened() as controller:
            shown = await eventually(lambda c=controller: runs_of(c)["synthetic"]["problem"], "it has been tried")
            assert shown == error.message
            assert runs_of(controller)["synthetic"]["state"] == "resuming"
    async with desk.opened() as controller:
        await eventually(lambda: runs_of(controller)["synthetic"]["problem"], "it has been tried")
        desk.refusal = None
        await eventually(
            lambda: clock.advance(1) or runs_of(controller)["synthetic"]["state"] != "resuming", "it runs again"
        )
        await controller.stop()
    assert desk.count("ingest_errors_total", provider="synthetic", stage="resume") == 3


async def test_a_run_that_is_being_resumed_can_be_stopped(desk, eventually):
    """And is not taken up again."""
    async with desk.opened() as controller:
        await controller.start("synthetic")
    desk.refusal = TemporaryUnavailable("the store is away")
    async with desk.opened() as controller:
        await eventually(lambda: runs_of(controller)["synthetic"]["problem"], "it has been tried")
        assert (await controller.stop("synthetic"))["status"] == "stopped"
    desk.refusal = None
    async with desk.opened() as controller:
        assert controller.status()["running"] is False


async def test_what_can_never_run_again_is_dropped(desk, eventually, caplog):
    """A provider that has been disabled meanwhile, or refuses for good: an error in the log, and the service runs."""
    async with desk.opened() as controller:
        await controller.start("synthetic", dry_run=True)
    desk.providers(synthetic={"enabled": False, "symbols": ["A"]})
    async with desk.opened() as controller:
        await eventually(lambda: not controller.status()["running"], "it has been dropped")
    assert "is disabled" in caplog.text
    desk.providers(synthetic={"enabled": True, "symbols": ["A"]})
    async with desk.opened() as controller:
        assert controller.status()["running"] is False
        await controller.start("synthetic")
    desk.refusal = PermissionsMissing("not for this account")
    async with desk.opened() as controller:
        await eventually(lambda: not controller.status()["running"], "it has been dropped")


async def test_a_start_that_cannot_be_recorded_is_none(desk):
    """What is acknowledged is there after a restart; so what cannot be recorded is undone."""
    async with desk.opened() as controller:
        (desk.folder / "state" / "ingest.json.new").mkdir()
        for dry_run in (True, False):
            with pytest.raises(TemporaryUnavailable, match="cannot be recorded"):
                await controller.start("synthetic", dry_run=dry_run)
        assert controller.status()["running"] is False
        assert desk.capture.sources["synthetic"].state == "done"
        (desk.folder / "state" / "ingest.json.new").rmdir()
        await controller.start("synthetic", dry_run=True)
        (desk.folder / "state" / "ingest.json.new").mkdir()
        with pytest.raises(TemporaryUnavailable, match="cannot be recorded"):
            await controller.stop()
        assert controller.status()["running"] is True


@pytest.mark.parametrize("content", ["", "{", "[]", '{"version": 2, "running": []}', '{"version": 1, "running": [{}]}'])
async def test_a_damaged_record_starts_nothing(desk, content, caplog):
    """It is put aside for people to look at, and the service starts."""
    state = desk.folder / "state"
    state.mkdir()
    (state / "ingest.json").write_text(content)
    async with desk.opened() as controller:
        assert controller.status()["running"] is False
    assert (state / "ingest.json.damaged").read_text() == content
    assert "ingest.json is damaged" in caplog.text


def test_the_record_survives_a_power_cut(tmp_path):
    """What has been saved is there whole, and only its owner can read it: arguments may be secrets."""
    data = tmp_path / "data"
    data.mkdir()
    powerloss.install(data, tmp_path / "shadow")
    try:
        file = OrderFile(data / "state" / "ingest.json")
        orders = [
            IngestOrder(provider=name, symbols=("A", "B"), dry_run=False, override_params={"n": 1.5}, since_ns=NOW_NS)
            for name in ("one", "two")
        ]
        file.save(orders[:1])
        file.save(orders)
    finally:
        disk.observe(None)
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    powerloss.restore(tmp_path / "shadow", data)
    assert file.load() == orders
    assert len(json.loads(file.path.read_text())["running"]) == 2
