from __future__ import annotations

import importlib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def bench(monkeypatch):
    """Import a module of the benchmarks, which live beside the tests and are not installed."""
    monkeypatch.syspath_prepend(str(REPOSITORY))
    return lambda name: importlib.import_module(f"benchmarks.{name}")


def test_calls_have_a_rate_and_each_sort_a_p99_beside_those_by_hand(bench, tmp_path):
    """Every answer was counted on the way."""
    results = bench("amds").run(bench("context").Context.quick(work=tmp_path, cache=tmp_path, recordings=None))
    assert [r.unit for r in results] == ["calls/s", *["ms p99"] * 3]
    assert all(r.value > 0 and r.ratios[bench("amds").BARE] > 0 for r in results)
    assert [bool(r.verdict) for r in results] == [True, False, False, False]
