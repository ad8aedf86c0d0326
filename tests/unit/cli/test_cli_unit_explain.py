"""What `mdo explain` says: every word the code has, and what is wrong by a status."""

from __future__ import annotations

import ast
import importlib
import json
import pkgutil
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest

import market_data_core
import market_data_ibkr
import market_data_orchestrator
import market_data_pipeline
import market_data_store
import mds_client
from market_data_core.errors import MarketDataError, TemporaryUnavailable, ValidationError
from market_data_core.telemetry import BackpressureLevel, HealthState
from market_data_orchestrator.cli.explain import diagnose, explanations, lookup
from market_data_orchestrator.cli.main import run
from market_data_orchestrator.service import Service
from market_data_orchestrator.settings import load_settings
from market_data_orchestrator.status import StatusAggregator, ledger_of
from market_data_pipeline.consumers.ledger import NodeCounts
from market_data_store.state import GapState, JobState

PACKAGES = (
    *(market_data_core, market_data_ibkr, market_data_orchestrator),
    *(market_data_pipeline, market_data_store, mds_client),
)
# Functions with a parameter `cause` that is not a gap's: it says what is wrong with a table.
OTHER_CAUSES = {"_damaged"}


def terms(group: str) -> set[str]:
    return {e.term for e in explanations() if e.group == group}


@pytest.fixture(scope="module")
def trees():
    """The syntax tree of every module, by path."""
    folders = [Path(package.__path__[0]) for package in PACKAGES]
    return {path: ast.parse(path.read_text()) for folder in folders for path in folder.rglob("*.py")}


@pytest.fixture(scope="module")
def error_names():
    """Every class of error that any module of the platform declares."""
    for package in PACKAGES:
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)

    def below(cls):
        for sub in cls.__subclasses__():
            yield sub
            yield from below(sub)

    return {cls.__name__ for cls in below(MarketDataError) if cls.__module__.partition(".")[0] in roots()}


def roots() -> set[str]:
    return {package.__name__ for package in PACKAGES}


def calls(tree: ast.AST):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            yield node, function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def texts(node: ast.expr | None, tree: ast.Module) -> set[str]:
    """The texts that an expression can be: itself, its parts, or constants of the module it stands in."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return {node.value} - {""}
    if isinstance(node, ast.BoolOp):
        return set().union(*(texts(value, tree) for value in node.values))
    if isinstance(node, ast.IfExp):
        return texts(node.body, tree) | texts(node.orelse, tree)
    if not isinstance(node, ast.Name):
        return set()
    return {
        statement.value.value
        for statement in tree.body
        if isinstance(statement, ast.Assign | ast.AnnAssign) and isinstance(statement.value, ast.Constant)
        for target in (statement.targets if isinstance(statement, ast.Assign) else [statement.target])
        if isinstance(target, ast.Name) and target.id == node.id and isinstance(statement.value.value, str)
    }


def takers_of_causes(trees) -> dict[str, int]:
    """At which place each function of the platform takes a `cause`, not counting `self`."""
    found = {}
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                names = [a.arg for a in node.args.args if a.arg != "self"]
                if "cause" in names and node.name not in OTHER_CAUSES:
                    found[node.name] = names.index("cause")
    return found


def test_every_cause_of_a_gap_is_explained(trees):
    """Whatever text the code gives a gap as its cause has its explanation, and no other has."""
    takers, found = takers_of_causes(trees), set()
    for tree in trees.values():
        for call, name in calls(tree):
            given = [k.value for k in call.keywords if k.arg == "cause" and name not in OTHER_CAUSES]
            given += call.args[takers[name] : takers[name] + 1] if name in takers else []
            for node in given:
                found |= texts(node, tree)
    assert {"restart", "paused", "log_full", "sequence", "source_failed", "disconnected"} <= found
    assert found == terms("gap cause")


def test_every_error_is_explained(error_names):
    """Every class of error that can reach a user, wherever it is declared, and no other."""
    assert {"LogFull", "CircuitBreakerOpen"} <= error_names
    assert error_names == terms("error")


def test_every_error_code_is_explained(trees, error_names):
    """Every code that an error is given beside its class's name, and no other."""
    found = set()
    for tree in trees.values():
        for call, name in calls(tree):
            if name in error_names | {"MarketDataError"}:
                found |= texts(call.args[1], tree) if len(call.args) > 1 else set()
                found |= {t for k in call.keywords if k.arg == "code" for t in texts(k.value, tree)}
    assert found - terms("error") == terms("error code")


def test_every_component_of_health_is_explained(tmp_path, trees):
    """Those that the service shows, always or by its settings, and no other."""
    health = StatusAggregator(Service(load_settings(data_dir=tmp_path))).health()
    (status_tree,) = (tree for path, tree in trees.items() if path.match("market_data_orchestrator/status.py"))
    found = set()
    for call, name in calls(status_tree):
        if name in ("_component", "HealthComponent"):
            named = [k.value for k in call.keywords if k.arg == "name"] or call.args[:1]
            found |= texts(named[0], status_tree)
    assert {c.name for c in health.components} <= found
    assert found == terms("health component")


def test_every_account_of_the_ledger_is_explained():
    """Each node's accounts and those of the whole service, and no other."""
    counts = {f.name: 0 for f in fields(NodeCounts)}
    whole = ledger_of([{"name": "raw", "nodes": [counts], "lag_events": 0, "unaccounted": 0}])
    assert {*counts, *whole, "unaccounted"} == terms("ledger account")


def test_every_state_is_explained():
    """States of health, gaps and jobs, and levels of feedback, and no other."""
    assert set(get_args(HealthState)) == terms("health state")
    assert set(map(str, GapState)) == terms("gap state")
    assert set(map(str, JobState)) == terms("job state")
    assert set(map(str, BackpressureLevel)) == terms("feedback level")


@pytest.mark.parametrize(
    ("group", "module", "attribute"),
    [
        ("source state", "market_data_pipeline/capture.py", "state"),
        ("consumer state", "market_data_pipeline/consumers/", "state"),
        ("service phase", "market_data_orchestrator/service.py", "phase"),
    ],
)
def test_every_state_that_the_code_sets_is_explained(group, module, attribute, trees):
    """Whatever text is assigned to the attribute, its first value too, and no other."""
    found = set()
    for path, tree in trees.items():
        if module not in str(path):
            continue
        for node in ast.walk(tree):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if isinstance(node, ast.Assign | ast.AnnAssign):
                for target in targets:
                    found |= assigned(target, node.value, attribute)
    assert found == terms(group)


def assigned(target: ast.expr | None, value: ast.expr | None, attribute: str) -> set[str]:
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        return set().union(*(assigned(t, v, attribute) for t, v in zip(target.elts, value.elts, strict=True)))
    if attribute not in (getattr(target, "attr", ""), getattr(target, "id", "")):
        return set()
    options = [value.body, value.orelse] if isinstance(value, ast.IfExp) else [value]
    return {o.value for o in options if isinstance(o, ast.Constant) and isinstance(o.value, str)}


def test_explanations_are_whole_sentences():
    """Each says something, and ends as a sentence does; no word stands twice in its group."""
    seen = [(e.group, e.term) for e in explanations()]
    assert len(seen) == len(set(seen))
    for explanation in explanations():
        assert len(explanation.means) > 10, explanation
        assert explanation.means.endswith("."), explanation
        assert not explanation.do or explanation.do.endswith((".", "?")), explanation


@pytest.mark.parametrize("word", ["LOG_FULL", "log-full", "Log Full", "gap cause log_full"])
def test_a_word_is_found_however_it_is_written(word):
    """Case, hyphens and spaces do not matter; the group may stand before it."""
    assert ("gap cause", "log_full") in {(e.group, e.term) for e in lookup(word)}


def test_one_word_of_several_groups_has_all_its_meanings():
    """`failed` is an account, a state of jobs, sources and consumers, and a phase; a group's name is all of it."""
    assert {e.group for e in lookup("failed")} >= {"ledger account", "job state", "source state", "consumer state"}
    assert {e.term for e in lookup("gap causes")} == terms("gap cause")


def test_an_unknown_word_names_those_written_alike():
    """Nothing is made up."""
    with pytest.raises(ValidationError, match="is it restart"):
        lookup("restrat")


def test_the_command_explains_for_people_and_machines(capsys):
    """The word's meaning and what to do; --json gives them as values, --list every word; unknown is code 2."""
    assert run(["explain", "health"]) == 0
    assert "the worst of its components" in " ".join(capsys.readouterr().out.split())
    assert run(["explain", "gap", "cause", "paused", "--json"]) == 0
    (said,) = json.loads(capsys.readouterr().out)
    assert (said["group"], said["term"]) == ("gap cause", "paused")
    assert "mdo resume" in said["do"]
    assert run(["explain", "--list", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(explanations())
    assert run(["explain", "no-such-word"]) == 2
    assert "no-such-word" in capsys.readouterr().err


def status(**changes):
    well = {"name": "store", "state": "healthy", "detail": "committing"}
    source = {"name": "synthetic", "state": "live", "problem": "", "refused": 0}
    consumer = {"name": "raw", "state": "running", "problem": "", "unaccounted": 0}
    whole = {"components": [well], "source": source, "consumer": consumer, "paused": False, "jobs": []} | changes
    return {
        "health": {"state": "healthy", "components": whole["components"]},
        "sources": [source | whole["source"]],
        "consumers": [consumer | whole["consumer"]],
        "paused": whole["paused"],
        "jobs": whole["jobs"],
    }


def test_nothing_is_found_where_all_is_well():
    """No finding without a cause."""
    assert diagnose(status()) == []


@pytest.mark.parametrize(
    ("changes", "what", "advice"),
    [
        ({"components": [{"name": "log", "state": "degraded", "detail": "full"}]}, "component log", "make room"),
        ({"source": {"state": "failed", "problem": "no such host"}}, "source synthetic", "restart"),
        ({"source": {"refused": 12}}, "source synthetic", "ORCH_LOG_MAX_BYTES"),
        ({"consumer": {"state": "conflict", "problem": "somebody else"}}, "consumer raw", "stop one"),
        ({"consumer": {"unaccounted": 3}}, "consumer raw", "mdo audit ledger"),
        ({"paused": True}, "intake", "mdo resume"),
        (
            {"jobs": [{"id": 4, "kind": "backfill", "state": "failed", "error": "no data", "detail": ""}]},
            "backfill job 4",
            "ask again",
        ),
    ],
    ids=["component", "source", "refused", "conflict", "unaccounted", "paused", "job"],
)
def test_what_is_wrong_is_named_with_what_to_do(changes, what, advice):
    """Each trouble is one finding, with its explanation."""
    (found,) = diagnose(status(**changes))
    assert found.what == what
    assert found.means
    assert advice in found.do


def test_what_later_versions_say_is_shown_without_explanation():
    """An unknown component is no error; something that is no status is."""
    (found,) = diagnose(status(components=[{"name": "oracle", "state": "unhealthy", "detail": None}]))
    assert (found.what, found.detail, found.means) == ("component oracle", "", "")
    with pytest.raises(TemporaryUnavailable, match="not this version"):
        diagnose({"health": "fine"})
