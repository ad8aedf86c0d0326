from __future__ import annotations

import importlib
from contextlib import contextmanager
from pathlib import Path

import pyarrow.compute as pc
import pytest

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def bench(monkeypatch):
    """Import a module of the benchmarks, which live beside the tests and are not installed."""
    monkeypatch.syspath_prepend(str(REPOSITORY))
    return lambda name: importlib.import_module(f"benchmarks.{name}")


@pytest.fixture
def tiny(bench, tmp_path):
    """A context of a thousand bars."""
    return bench("context").Context.quick(work=tmp_path, cache=tmp_path / "cache", sample_rows=4_000, recordings=None)


def test_every_way_and_phase_has_a_figure_beside_the_yardstick(bench, tiny):
    """Each way of storing bars has a rate when they are new, the same and revised; asyncpg says why it has none."""
    upserts = bench("upserts")
    *results, skipped = upserts.run(tiny)
    ways = (upserts.APPEND, upserts.UPSERT, upserts.LAKE)
    assert [r.what for r in results] == [f"{way}: {what}" for way in ways for what in upserts.PHASES.values()]
    assert all(r.unit == "rows/s" and r.value > 0 and r.detail["rows"] == 1_000 for r in results)
    assert all(r.ratios[bench("upserts_bare").EXECUTEMANY] > 0 for r in results)
    assert [bool(r.verdict) for r in results] == [True] * 6 + [False] * 3
    assert "--yardsticks" in skipped.skipped


def test_revised_bars_have_the_keys_of_the_new_ones(bench):
    """The keys differ within a phase and agree between phases, on both sides of a partition's end."""
    upserts = bench("upserts")
    new, revised = (upserts.bars(2_000, revision=r) for r in (0, 1))
    keys = ["symbol", "ts_event"]
    assert new.select(keys).equals(revised.select(keys))
    assert new.group_by(keys).aggregate([]).num_rows == 2_000
    first, last = pc.min_max(new.column("ts_event")).as_py().values()
    assert first < upserts._MIDNIGHT_NS <= last
    assert not pc.any(pc.equal(new.column("volume"), revised.column("volume"))).as_py()


def test_a_way_that_stores_something_else_stops_the_row(bench, tiny):
    """A figure over bars that were not stored would mean nothing, so there is none."""
    upserts = bench("upserts")

    @contextmanager
    def forgetful():
        with upserts._lake(tiny) as way:
            yield upserts.Way(write=lambda rows: way.write(rows.slice(1)), check=way.check)

    with pytest.raises(AssertionError, match="handed in"):
        upserts.store(forgetful(), {"new": [upserts.bars(1_000, revision=0)]})
