from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture
def bench(monkeypatch):
    """Import a module of the benchmarks, which live beside the tests and are not installed."""
    monkeypatch.syspath_prepend(str(REPOSITORY))
    return lambda name: importlib.import_module(f"benchmarks.{name}")


@pytest.fixture
def tiny(bench, tmp_path):
    """A context of a few thousand made-up events and half seconds."""
    sizes = {"sample_rows": 2_000, "live_s": 0.5, "recordings": None}
    return bench("context").Context.quick(work=tmp_path, cache=tmp_path / "cache", **sizes)


@pytest.fixture
def tool(bench, tmp_path):
    """Make a tool that is a few lines of Python, with a venv in which it counts as installed."""

    def make(text):
        module = bench("yardsticks_venv")
        script = tmp_path / "tool.py"
        script.write_text(text)
        return module.Tool(name="Other", package="other-engine", script=script)

    return make


@pytest.fixture
def in_venv(bench, monkeypatch):
    """Take this interpreter for that of the venv, so that nothing is installed."""
    monkeypatch.setattr(bench("yardsticks_venv"), "installed", lambda venv, tool: Path(sys.executable))


def test_the_graph_gives_what_the_chains_give(bench, tiny):
    """Chains written by hand and the compiled graph give the same rows, and the row has its ratio."""
    graph, five = bench("dag").run(tiny)
    assert graph.detail["compared_on_sample"]["bars"] > 0
    assert graph.detail["compared_on_sample"]["values"] > 0
    assert graph.ratios[bench("dag").CHAIN] > 0
    assert graph.verdict in ("met", "missed")
    assert five.detail["rows_given"]["all"] > 0


def test_rows_that_differ_stop_the_row(bench, tiny, monkeypatch):
    """A graph that does something else than the chains has no figure beside theirs."""
    dag, ticks, logged = bench("dag"), bench("ticks"), bench("logged")
    log = tiny.work / "log"
    end = logged.write_log(ticks.prepare(tiny).sample, log)
    nodes = dag.TWO_CHAINS["nodes"] | {"bars": {"operator": "bars", "interval": "2s"}}
    monkeypatch.setattr(dag, "TWO_CHAINS", dag.TWO_CHAINS | {"nodes": nodes})
    with pytest.raises(AssertionError, match="bars of all-bars differ"):
        dag.compare(log, end, tiny.work / "compare")


def test_many_pipelines_are_timed_in_both_shapes(bench, tiny):
    """Pipelines with sources of their own and graphs over one log have a lateness, a rate, memory and processor use."""
    results = bench("many").run(tiny)
    assert [r.skipped for r in results] == ["", ""]
    for result in results:
        assert result.value > 0
        assert result.detail["events_per_s"] > 0
        assert result.detail["cores_used"] > 0


@pytest.mark.usefixtures("in_venv")
def test_a_yardstick_that_counts_as_we_do_is_measured(bench, tiny, tool):
    """Another engine's seconds are taken where its bars and volume are ours."""
    said = {"bars": 3, "volume": 7.0, "seconds": 0.5}
    found = _foreign(bench, tiny, tool(f"print('loading')\nprint({json.dumps(json.dumps(said))})"))
    assert found.runs["Other"]() == 0.5
    assert found.said == {"Other": said}
    assert found.skipped == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('print(\'{"bars": 4, "volume": 7.0, "seconds": 1}\')', "bars 4, ours 3"),
        ('print(\'{"bars": 3, "seconds": 1}\')', "volume None, ours 7.0"),
        ("raise SystemExit('no such ticks')", "ended with code 1: no such ticks"),
        ("print('done')", "printed no JSON: done"),
    ],
)
@pytest.mark.usefixtures("in_venv")
def test_a_yardstick_without_a_figure_says_why(bench, tiny, tool, text, reason):
    """What counts otherwise, fails or says nothing is left out, and the row tells the reason."""
    found = _foreign(bench, tiny, tool(text))
    assert found.runs == {}
    (skipped,) = found.skipped
    assert skipped.what == "yardstick Other"
    assert reason in skipped.skipped


def test_what_does_not_install_is_told_and_the_rest_goes_on(bench, tiny, tool, monkeypatch):
    """A package that pip has not is a row without a figure, not an error."""
    module = bench("yardsticks_venv")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    found = module.foreign(replace(tiny, yardsticks=True), "row", "bars", files=[], expected={}, tools=[tool("")])
    assert found.runs == {}
    (skipped,) = found.skipped
    assert "Other does not install on this Python: ERROR: No matching distribution" in skipped.skipped


def test_yardsticks_of_others_are_left_out_unless_asked_for(bench, tiny, tool):
    """Nothing is installed by a run that did not ask for it."""
    module = bench("yardsticks_venv")
    found = module.foreign(tiny, "row", "bars", files=[], expected={}, tools=[tool("")])
    assert (found.runs, found.skipped) == ({}, [])


def test_scripts_of_yardsticks_need_nothing_of_ours(bench):
    """They are compiled and name no module of the platform, for their venv has none."""
    for tool in bench("yardsticks_venv").TOOLS:
        text = tool.script.read_text()
        compile(text, str(tool.script), "exec")
        assert not [
            line for line in text.splitlines() if "import" in line and ("market_data" in line or "benchmarks" in line)
        ]


def _foreign(bench, tiny, tool):
    module = bench("yardsticks_venv")
    asked = replace(tiny, yardsticks=True)
    return module.foreign(asked, "row", "bars", files=[], expected={"bars": 3, "volume": 7.0}, tools=[tool])
