"""``mdo validate``, ``mdo plan`` and ``mdo graph``."""

from __future__ import annotations

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import typer
from typer.testing import CliRunner

from market_data_core.errors import AuthenticationFailed, ConfigurationError, TemporaryUnavailable
from market_data_orchestrator.cli import graph, validate
from market_data_orchestrator.cli import plan as plan_command
from market_data_orchestrator.config import load_platform, record
from support.service import free_port

BROKEN = "tenant: a b\ndag:\n  nodes:\n    a: {source: all}\n  edges: []\n"


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("ORCH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ORCH_HEALTH_PORT", str(free_port()))
    monkeypatch.setenv("ORCH_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "broken.yaml").write_text(BROKEN)
    (tmp_path / "other.yaml").write_text("tenant: other\nproviders:\n  synthetic: {symbols: [AA]}\n")


@pytest.fixture(scope="module")
def mdo():
    """Runs one of the commands as the command line does; gives exit code and standard output."""
    app = typer.Typer(result_callback=_end, pretty_exceptions_enable=False)
    app.command("validate")(validate.validate)
    app.command("plan")(plan_command.plan)
    app.command("graph")(graph.graph)

    def call(*arguments):
        result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
        return result.exit_code, result.stdout

    return call


def _end(code, **_):
    raise typer.Exit(code or 0)


@pytest.fixture
def service(monkeypatch):
    """A service that answers /plan as told; gives what it was asked with."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        answer = (200, "{}")

        def do_GET(self):
            asked.append((self.path, self.headers.get("X-API-Key")))
            status, text = self.answer
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    monkeypatch.setenv("ORCH_URL", f"http://127.0.0.1:{server.server_port}")
    Handler.asked = asked
    yield Handler
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_valid_configuration_is_summed_up(mdo):
    """Without a file the packaged default is checked; the code is 0."""
    code, out = mdo("validate")
    assert code == 0
    assert out.startswith("the packaged default is valid: 7 nodes, 5 edges\n")
    assert "consumers: raw, bars-trades-1m" in out


def test_errors_are_told_with_their_lines(mdo):
    """All errors at once: raised for people, as one JSON value with code 2 for machines."""
    with pytest.raises(ConfigurationError, match=r"(?s)2 errors.*broken\.yaml:1: tenant.*broken\.yaml:4: node 'a'"):
        mdo("validate", "broken.yaml")
    code, out = mdo("validate", "broken.yaml", "--json")
    said = json.loads(out)
    assert code == 2
    assert said["valid"] is False
    assert [error["where"] for error in said["errors"]] == ["broken.yaml:1", "broken.yaml:4"]
    code, out = mdo("validate", "gone.yaml", "--json")
    assert (code, json.loads(out)["errors"][0]["message"]) == (
        2,
        "gone.yaml: cannot be read: No such file or directory",
    )


def test_a_valid_configuration_in_json_is_complete(mdo):
    """Version and configuration as understood."""
    said = json.loads(mdo("validate", "other.yaml", "--json")[1])
    assert said["valid"] is True
    assert said["version"] == load_platform("other.yaml").graph.version
    assert said["configuration"]["providers"]["synthetic"]["symbols"] == ["AA"]


@pytest.mark.parametrize(("form", "begins"), [("text", "+------"), ("mermaid", "flowchart"), ("dot", "digraph")])
def test_a_graph_is_drawn(form, begins, mdo):
    """In each of the formats, lines unbroken."""
    code, out = mdo("graph", "--format", form)
    assert code == 0
    assert out.startswith(begins)
    assert "bars-trades-1m" in out


def test_a_graph_in_json_is_its_nodes_and_edges(mdo):
    """For machines."""
    said = json.loads(mdo("graph", "--json")[1])
    assert len(said["nodes"]) == 7
    assert said["version"]


def test_a_first_plan_is_against_nothing(mdo):
    """Where no service answers and none has run, everything is added."""
    code, out = mdo("plan")
    assert code == 0
    assert "Compared with nothing" in out
    assert "+ consumer raw" in out
    assert {c["action"] for c in json.loads(mdo("plan", "--json")[1])["changes"]} == {"added"}


def test_a_plan_is_against_what_ran_last(mdo, tmp_path):
    """The record in the data directory is what counts while no service answers."""
    record(tmp_path / "data", load_platform().blueprint())
    assert "Nothing changes." in mdo("plan")[1]
    out = mdo("plan", "other.yaml")[1]
    assert f"what ran last in {tmp_path / 'data'}" in out
    assert "+ symbol   synthetic AA" in out
    assert "Needs a restart: setting tenant." in out
    assert "Nothing changes." in mdo("plan", "--data-dir", tmp_path / "data")[1]


def test_a_plan_is_against_what_runs(mdo, service, monkeypatch):
    """A running service is asked, with the key of the settings."""
    monkeypatch.setenv("ORCH_API_KEY", "its-key")
    service.answer = (200, json.dumps({"configuration": load_platform("other.yaml").blueprint().to_dict()}))
    assert "Nothing changes." in mdo("plan", "other.yaml")[1]
    assert service.asked == [("/plan", "its-key")]
    assert json.loads(mdo("plan", "--json")[1])["against"] == "what runs"


def test_a_service_that_keeps_no_configuration_is_passed_over(mdo, service):
    """One without the route is as none."""
    service.answer = (404, "")
    assert "Compared with nothing" in mdo("plan")[1]


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        ((401, "{}"), AuthenticationFailed, "ORCH_API_KEY"),
        ((500, "{}"), TemporaryUnavailable, "does not say what it runs"),
        ((200, "[]"), TemporaryUnavailable, "does not say what it runs"),
        ((200, '{"configuration": {}}'), TemporaryUnavailable, "does not say what it runs"),
        ((200, "<html>"), TemporaryUnavailable, "does not say what it runs"),
    ],
)
def test_a_service_that_does_not_answer_rightly_is_an_error(answer, error, says, mdo, service):
    """Never a plan against something else than what was asked for."""
    service.answer = answer
    with pytest.raises(error, match=says):
        mdo("plan")


@pytest.mark.parametrize("command", ["validate", "plan", "graph"])
def test_help_teaches(command, mdo):
    """Each command has an example and explains its options."""
    code, out = mdo(command, "--help")
    assert code == 0
    assert f"Example: mdo {command}" in " ".join(out.replace("`", "").split())
    assert "--json" in out
