from __future__ import annotations

import importlib
import json
import math
from pathlib import Path

import pytest
from rich.console import Console

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def bench(monkeypatch):
    """Import a module of the benchmarks, which live beside the tests and are not installed."""
    monkeypatch.syspath_prepend(str(REPOSITORY))
    return lambda name: importlib.import_module(f"benchmarks.{name}")


@pytest.fixture
def tiny(bench, tmp_path):
    """A context of a few thousand made-up events."""
    sizes = {"sample_rows": 4_000, "bar_rows": 20_000, "recordings": None}
    return bench("context").Context.quick(work=tmp_path, cache=tmp_path / "cache", **sizes)


def test_bars_of_all_ways_have_the_same_volume(bench, tiny):
    """The measured path, the object pipeline and the kernel make the same bars of the same ticks."""
    (result,) = bench("bars_parquet").run(tiny)
    detail = result.detail
    assert detail["bars_compared"] > 0
    assert detail["late"] == 0
    assert detail["volume"] > 0
    assert detail["volume"] == detail["volume_object_pipeline"] == detail["volume_kernel"]


def test_a_row_has_a_figure_yardsticks_and_their_ratios(bench, tiny):
    """A row says what was measured, in what unit, against what, and how it compares."""
    (result,) = bench("bars_parquet").run(tiny)
    assert (result.row, result.unit) == ("parquet", "events/s")
    assert result.value > 0
    assert set(result.ratios) == set(result.yardsticks) >= {"object per tick", "NumPy kernel", "memory copy"}
    assert all(math.isfinite(r) and r > 0 for r in result.ratios.values())
    assert result.verdict in ("met", "missed")


def test_bars_that_differ_stop_the_row(bench, tiny, monkeypatch):
    """A figure over wrong bars would mean nothing, so there is none."""
    rows, yardsticks, ticks = bench("bars_parquet"), bench("yardsticks"), bench("ticks")
    made = ticks.prepare(tiny)
    right = yardsticks.object_pipeline(made.sample)
    key = next(iter(right))
    wrong = {**right, key: (*right[key][:4], right[key][4] + 1, right[key][5])}
    monkeypatch.setattr(yardsticks, "object_pipeline", lambda files: wrong)
    with pytest.raises(AssertionError, match="1 bars differ from the object pipeline's"):
        rows.compare(made.sample)


def test_bars_read_from_the_lake_are_those_stored(bench, tiny):
    """Every read gives a whole day with the volumes that were stored, or the row raises."""
    (result,) = bench("lake_bars").run(tiny)
    assert (result.row, result.unit) == ("lake", "ms")
    assert result.detail["rows"] >= 20_000
    assert result.detail["looks"] > 0
    assert 0 < result.value <= result.detail["p99_ms"]


def test_a_table_once_built_is_used_again(bench, tiny):
    """The table that is dear to build is kept from run to run."""
    bench("lake_bars").run(tiny)
    (again,) = bench("lake_bars").run(tiny)
    assert again.detail["built_s"] == 0


def test_results_are_written_with_the_machine(bench, tmp_path):
    """The JSON and the Markdown hold every figure, why one is absent, and what machine it was."""
    results = bench("results")
    target = results.Target(value=10.0, higher_is_better=False)
    found = [
        results.Result(row="a", what="fast thing", value=5.0, unit="ms", yardsticks={"bare": 2.5}, target=target),
        results.Result(row="b", what="absent thing", skipped="no recordings"),
    ]
    machine = bench("context").machine()
    as_json, as_text = results.write(found, machine, tmp_path / "out", "today")
    written = json.loads(as_json.read_text())
    assert written["machine"]["cores"] == machine["cores"]
    assert [(r["verdict"], r["ratios"]) for r in written["results"]] == [("met", {"bare": 2.0}), ("", {})]
    assert "not run: no recordings" in as_text.read_text()
    console = Console(record=True, width=200)
    results.show(found, console)
    assert "fast thing" in console.export_text()


def test_latencies_count_from_due_and_from_receipt(bench):
    """Each event's time runs from when it fell due and when it was received, to the tap and to the durable log."""
    service, batch = bench("live_service"), importlib.import_module("market_data_core.batch")
    schemas, taps = (importlib.import_module(n) for n in ("market_data_core.schemas", "market_data_pipeline.taps"))
    ms = 1_000_000
    columns = {"ts_event": [10 * ms, 12 * ms], "ts_recv": [13 * ms, 13 * ms]}
    given = batch.SourceBatch(
        kind=schemas.Kind.TRADES,
        data=batch.unlogged(schemas.Kind.TRADES, 2, columns),
        instruments=[batch.Instrument(vendor="v", symbol="S")],
    )
    tapped = [(15 * ms, taps.Tapped(given, 100, schemas.Origin.LIVE))]
    found = service.latencies(tapped, [(9 * ms, 100), (20 * ms, 102)])
    assert found["events"] == 2
    assert found["due_to_tap_ms"]["p50"] == 4.0
    assert found["recv_to_tap_ms"]["p50"] == 2.0
    assert found["due_to_log_ms"]["p50"] == 9.0
    assert found["recv_to_log_ms"]["p50"] == 7.0
