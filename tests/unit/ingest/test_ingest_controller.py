"""Providers started and stopped."""

from __future__ import annotations

import asyncio

import pytest

from market_data_core.clock import ManualClock
from market_data_core.errors import ConfigurationError, LogLocked, RegistryError, TemporaryUnavailable
from market_data_pipeline.runners import AlreadyRunning

SYNTHETIC = {"enabled": True, "symbols": ["AAPL"], "params": {"rate": 2000}, "overridable": ["rate", "count", "time"]}
NOW_NS = 1_700_000_000_000_000_000


def replay(*paths, **rest):
    return {
        "provider": "replay",
        "enabled": True,
        "symbols": ["A"],
        "params": {"paths": [str(p) for p in paths]},
    } | rest


async def test_nothing_needs_to_be_configured_for_a_dry_run(desk, log, eventually):
    """The packaged defaults: events are read and counted, and none is written."""
    async with desk.opened() as controller:
        started = await controller.start("synthetic", dry_run=True)
        assert started == {"status": "started", "provider": "synthetic", "dry_run": True, "store_mode": "none"}
        await eventually(
            lambda: desk.count("ingest_writes_suppressed_total", reason="dry_run") > 0, "events are counted"
        )
        status = controller.status()
        assert (status["running"], status["active_provider"], status["dry_run"]) == (True, "synthetic", True)
        assert status["runs"][0]["writes"] is False
        stopped = await controller.stop()
    assert stopped == {"status": "stopped", "reason": "operator_request", "providers": ["synthetic"]}
    assert log.sources() == {}
    assert desk.capture.sources == {}


async def test_what_is_started_is_written(desk, log, eventually):
    """The events are in the log, and no more of them once it has been stopped."""
    desk.providers(synthetic=SYNTHETIC)
    async with desk.opened() as controller:
        await controller.start("synthetic")
        await eventually(lambda: controller.status()["runs"][0]["events"] > 10, "events are written")
        assert await controller.stop("synthetic") == {
            "status": "stopped",
            "reason": "operator_request",
            "providers": ["synthetic"],
        }
        end = log.end
        assert end > 10
        assert desk.capture.sources["synthetic"].state == "done"
        assert desk.count("ingest_writes_suppressed_total", reason="dry_run") == 0
        assert controller.status()["running"] is False


async def test_a_write_path_that_is_off_writes_nothing(desk, log, eventually):
    """Whatever the start asks for; the events are counted under that."""
    desk.policy(write_path={"enabled": False})
    async with desk.opened() as controller:
        assert (await controller.start("synthetic", dry_run=False))["dry_run"] is False
        await eventually(
            lambda: desk.count("ingest_writes_suppressed_total", reason="write_path_disabled") > 0, "events are counted"
        )
    assert log.sources() == {}


async def test_the_policy_says_what_a_start_means(desk):
    """A start that does not say whether it writes does as the policy does; one that does say is not overruled."""
    desk.policy(write_path={"dry_run": True})
    async with desk.opened() as controller:
        assert (await controller.start("synthetic"))["dry_run"] is True
        await controller.stop()
        assert (await controller.start("synthetic", dry_run=False))["dry_run"] is False


async def test_several_run_at_the_same_time(desk, trades_file):
    """Each at most once; stopping one leaves the others, stopping without a name stops all."""
    desk.providers(one=SYNTHETIC | {"provider": "synthetic"}, two=SYNTHETIC | {"provider": "synthetic"})
    async with desk.opened() as controller:
        await controller.start("one", dry_run=True)
        await controller.start("two")
        with pytest.raises(AlreadyRunning, match="'two' is running already"):
            await controller.start("two", dry_run=True)
        assert [run["provider"] for run in controller.status()["runs"]] == ["one", "two"]
        await controller.stop("one")
        assert controller.status()["active_provider"] == "two"
        await controller.start("one", dry_run=True)
        assert (await controller.stop())["providers"] == ["two", "one"]
        assert await controller.stop() == {"status": "idle"}
        assert await controller.stop("one") == {"status": "idle"}


async def test_starting_at_the_same_time_starts_once(desk):
    """Operations follow one another."""
    async with desk.opened() as controller:
        starts = [controller.start("synthetic", dry_run=True) for _ in range(5)]
        results = await asyncio.gather(*starts, return_exceptions=True)
        assert [type(r) for r in results].count(AlreadyRunning) == 4
        assert desk.count("ingest_starts_total", provider="synthetic") == 1


async def test_an_unknown_provider_is_refused(desk):
    """The error names those there are, and makes no series of what a caller wrote."""
    async with desk.opened() as controller:
        for operation in (controller.start("nobody"), controller.stop("nobody")):
            with pytest.raises(RegistryError, match="replay, synthetic"):
                await operation
    assert desk.count("ingest_starts_total", provider="nobody") is None


@pytest.mark.parametrize(
    ("entry", "guards", "symbols", "says"),
    [
        ({"enabled": False, "symbols": ["A"]}, {}, None, "is disabled"),
        ({"enabled": True, "symbols": []}, {}, None, "no symbols"),
        ({"enabled": True, "symbols": ["A"]}, {}, [], "no symbols"),
        ({"enabled": True, "symbols": ["A"]}, {}, [" "], "no symbols"),
        ({"enabled": True, "symbols": ["A", "B", "C"]}, {"max_symbols": 2}, None, "max_symbols allows 2"),
    ],
)
async def test_guards_refuse(desk, entry, guards, symbols, says):
    """Before anything is made or recorded."""
    desk.providers(synthetic=entry)
    desk.policy(guards=guards)
    async with desk.opened() as controller:
        with pytest.raises(ConfigurationError, match=says):
            await controller.start("synthetic", symbols=symbols, dry_run=True)
        assert controller.status()["running"] is False


async def test_guards_can_be_taken_away(desk):
    """A provider without symbols gives its own choice."""
    desk.providers(synthetic={"enabled": False})
    desk.policy(guards={"require_provider_enabled": False, "require_symbols_nonempty": False})
    async with desk.opened() as controller:
        assert (await controller.start("synthetic", dry_run=True))["status"] == "started"


async def test_only_what_is_overridable_is_overridden(desk, eventually):
    """What the entry does not list is refused with what it lists; what it lists reaches the source."""
    desk.providers(synthetic=SYNTHETIC)
    async with desk.opened() as controller:
        with pytest.raises(ConfigurationError, match=r"may not set clock; .*: rate, count, time"):
            await controller.start("synthetic", dry_run=True, override_params={"clock": None, "rate": 1})
        await controller.start("synthetic", dry_run=True, override_params={"count": 7, "time": "virtual"})
        await eventually(lambda: not controller.status()["running"], "the source has ended")
    assert desk.count("ingest_writes_suppressed_total", reason="dry_run") == 7
    assert desk.count("ingest_stops_total", provider="synthetic", reason="source_ended") == 1
    assert desk.count("ingest_active", provider="synthetic") == 0


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"provider": "none-such"}, "entry point"),
        ({"params": {"rate": -1}}, "rate"),
        ({"params": {"rte": 1}}, "SyntheticSource does not take"),
    ],
)
async def test_a_source_that_cannot_be_made_is_counted(desk, entry, says):
    """The error names the provider; a later start with another configuration works."""
    desk.providers(synthetic=SYNTHETIC | entry)
    async with desk.opened() as controller:
        with pytest.raises(ConfigurationError, match=rf"provider 'synthetic'.*{says}"):
            await controller.start("synthetic", dry_run=True)
        assert desk.count("ingest_errors_total", provider="synthetic", stage="create_source") == 1
        desk.providers(synthetic=SYNTHETIC)
        await controller.reload()
        await controller.start("synthetic", dry_run=True)


async def test_a_recording_is_written_to_its_end(desk, log, trades_file, eventually):
    """The run ends with its source, and all three events are in the log."""
    desk.providers(tape=replay(trades_file))
    async with desk.opened() as controller:
        await controller.start("tape")
        await eventually(lambda: not controller.status()["running"], "the recording has ended")
    assert desk.capture.sources["tape"].events == 3
    assert desk.count("ingest_stops_total", provider="tape", reason="source_ended") == 1


@pytest.mark.parametrize("dry_run", [True, False])
async def test_a_source_that_fails_ends_its_run_alone(desk, tmp_path, dry_run, eventually, caplog):
    """It is counted and logged; the other goes on."""
    desk.providers(tape=replay(tmp_path / "none.csv"), synthetic=SYNTHETIC)
    async with desk.opened() as controller:
        await controller.start("synthetic", dry_run=True)
        await controller.start("tape", dry_run=dry_run)
        await eventually(lambda: len(controller.status()["runs"]) == 1, "the failed run has ended")
        assert controller.status()["active_provider"] == "synthetic"
    assert desk.count("ingest_errors_total", provider="tape", stage="read") == 1
    assert desk.count("ingest_stops_total", provider="tape", reason="source_failed") == 1
    assert "none.csv" in caplog.text


async def test_a_run_ends_after_its_time(desk, eventually):
    """Without anybody asking."""
    desk.clock = ManualClock(NOW_NS)
    desk.policy(write_path={"max_runtime_seconds": 60})
    async with desk.opened() as controller:
        await controller.start("synthetic")
        assert controller.status()["runs"][0]["remaining_seconds"] == 60

        def tick():
            desk.clock.advance(1)
            return desk.clock.now_ns() >= NOW_NS + 59 * 10**9

        await eventually(tick, "59 s have passed")
        assert controller.status()["running"] is True
        await eventually(lambda: desk.clock.advance(1) or not controller.status()["running"], "the run has ended")
    assert desk.count("ingest_stops_total", provider="synthetic", reason="auto_duration_reached") == 1
    assert desk.capture.sources["synthetic"].state == "done"


async def test_a_dry_run_is_no_faster_than_its_pace(desk):
    """Also of a source that gives as fast as it is read."""
    desk.clock = clock = ManualClock(NOW_NS)
    pace = {"pacing": {"events_per_second": 100}, "params": {"time": "virtual", "rate": 0, "batch_rows": 10}}
    desk.providers(synthetic=SYNTHETIC | pace)
    async with desk.opened() as controller:
        await controller.start("synthetic", dry_run=True)
        for _ in range(400):
            clock.advance(0.01)
            await asyncio.sleep(0)
        events = controller.status()["runs"][0]["events"]
        # In its own steps of at most ten events, and a quarter of a second that may be made up for.
        assert 0 < events <= 400 + 25 + 10


async def test_a_writer_that_is_away_is_told(desk):
    """The start fails as such, is counted, and leaves nothing behind."""
    desk.refusal = TemporaryUnavailable("the store is away")
    async with desk.opened() as controller:
        with pytest.raises(TemporaryUnavailable, match="the store is away"):
            await controller.start("synthetic")
        assert controller.status()["running"] is False
        desk.refusal = None
        await controller.start("synthetic")
    assert desk.count("ingest_errors_total", provider="synthetic", stage="start_source") == 1
    assert desk.count("ingest_starts_total", provider="synthetic") == 1


async def test_a_stop_that_fails_leaves_the_run_to_be_stopped_again(desk):
    """It is still shown as running, because it is."""
    desk.stop_refusal = TemporaryUnavailable("no")
    async with desk.opened() as controller:
        await controller.start("synthetic")
        with pytest.raises(TemporaryUnavailable):
            await controller.stop()
        assert controller.status()["running"] is True
        desk.stop_refusal = None
        assert (await controller.stop())["status"] == "stopped"
    assert desk.count("ingest_errors_total", provider="synthetic", stage="stop_source") == 1


async def test_a_run_that_cannot_be_stopped_in_time_is_stopped_later(desk, eventually):
    """The end of its time is not forgotten because stopping failed; it is shown as running as long as it is."""
    desk.clock = clock = ManualClock(NOW_NS)
    desk.policy(write_path={"max_runtime_seconds": 5})
    desk.stop_refusal = RuntimeError("no")
    async with desk.opened() as controller:
        await controller.start("synthetic")
        await eventually(
            lambda: (
                clock.advance(1) or desk.count("ingest_errors_total", provider="synthetic", stage="stop_source") > 1
            ),
            "stopping has been tried",
        )
        assert controller.status()["running"] is True
        desk.stop_refusal = None
        await eventually(lambda: clock.advance(1) or not controller.status()["running"], "it has been stopped")


async def test_a_shutdown_ends_although_a_source_does_not_stop(desk):
    """Whoever leaves is not held."""
    desk.stop_refusal = RuntimeError("no")
    async with desk.opened() as controller:
        await controller.start("synthetic")


async def test_all_series_are_there_from_the_start(desk):
    """At zero, so that the first event of each can be seen."""
    async with desk.opened():
        assert desk.count("ingest_active", provider="synthetic") == 0
        assert desk.count("ingest_starts_total", provider="synthetic") == 0
        assert desk.count("ingest_stops_total", provider="synthetic", reason="auto_duration_reached") == 0
        assert desk.count("ingest_errors_total", provider="synthetic", stage="create_source") == 0
        assert desk.count("ingest_writes_suppressed_total", reason="write_path_disabled") == 0


async def test_one_controls_a_folder(desk):
    """A second process is told, instead of both recording what runs."""
    async with desk.opened():
        with pytest.raises(LogLocked, match="another process"):
            async with desk.opened():
                pass
    async with desk.opened():
        pass
