"""The reference is what the code says."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from market_data_core.schemas import STORED_SCHEMAS, Flag
from market_data_orchestrator.settings import OrchestratorSettings, load_settings
from market_data_store.lake.declarations import TABLES

ROOT = Path(__file__).resolve().parents[2]

PUBLISHED = {
    "ORCH_JWT_ENABLED": "true",
    "ORCH_OIDC_ISSUER": "https://YOUR_TENANT.auth0.com/",
    "ORCH_OIDC_AUDIENCE": "market-data-orchestrator",
    "ORCH_JWKS_URL": "https://YOUR_TENANT.auth0.com/.well-known/jwks.json",
    "ORCH_DUAL_AUTH": "true",
    "ORCH_API_KEY": "your-secure-random-key-here",
    "ORCH_REDIS_RATE_LIMIT_URL": "redis://localhost:6379/1",
    "ORCH_RATE_LIMIT_ENABLED": "true",
    "ORCH_RATE_LIMIT_MAX_PER_MINUTE": "5",
    "ORCH_AUDIT_LOG_PATH": "logs/audit.jsonl",
    "ORCH_AUDIT_LOG_ENABLED": "true",
    "ORCH_FEDERATION_PEERS": "http://orchestrator-us:8080,http://orchestrator-eu:8080",
    "ORCH_RUNTIME_MODE": "dag",
    "ORCH_FEEDBACK_ENABLED": "true",
    "ORCH_FEEDBACK_URL": "redis://localhost:6379/0",
    "ORCH_PROVIDER_HOST": "127.0.0.1",
    "ORCH_PROVIDER_PORT": "7497",
    "ORCH_PROVIDER_CLIENT_ID": "1",
    "ORCH_HEALTH_HOST": "0.0.0.0",
    "ORCH_HEALTH_PORT": "8080",
    "ORCH_WS_INTERVAL_SEC": "2.0",
    "ORCH_LOG_LEVEL": "INFO",
    "ORCH_LOG_FORMAT": "json",
}
"""The settings example that existing users have."""


@pytest.fixture(scope="module")
def reference():
    """The generator."""
    spec = importlib.util.spec_from_file_location("reference_pages", ROOT / "scripts" / "reference.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def pages(reference):
    return reference.pages()


def test_the_pages_in_the_repository_are_what_the_code_says(reference, pages):
    """Nobody has changed the code and forgotten `make reference`, and there are no pages of things that are gone."""
    # What is said of the interface published before is written by hand, and held to the code by a test of its own.
    kept = {p.name: p.read_text("utf-8") for p in reference.FOLDER.glob("*.md") if p.name != "compatibility.md"}
    assert sorted(kept) == sorted(pages)
    for name, text in pages.items():
        assert kept[name] == text, f"docs/reference/{name} is not what the code says: run `make reference`"


def test_the_pages_do_not_depend_on_the_environment(reference, pages, monkeypatch):
    """What is set on the machine that writes them does not show, secrets least of all."""
    monkeypatch.setenv("ORCH_API_KEY", "very-secret")
    monkeypatch.setenv("ORCH_HEALTH_PORT", "1234")
    assert reference.pages() == pages


def test_every_setting_is_described():
    """A sentence for each, and for each number its unit."""
    for name, field in OrchestratorSettings.model_fields.items():
        assert (field.description or "").endswith("."), name


def test_every_number_among_the_settings_has_a_unit(reference):
    """A bare number without a unit could be misread."""
    numbers = {
        name
        for name, field in OrchestratorSettings.model_fields.items()
        if field.annotation in (int, float, int | None, float | None)
    }
    assert set(reference.UNITS) == numbers


def test_every_default_is_taken_as_it_is_printed(reference, monkeypatch, tmp_path):
    """The default column can be copied into the environment and changes nothing."""
    monkeypatch.chdir(tmp_path)
    without = load_settings()
    for name in OrchestratorSettings.model_fields:
        monkeypatch.setenv(f"ORCH_{name.upper()}", reference.setting_default(name))
    assert load_settings() == without


def test_secrets_have_no_default(reference):
    """Nothing that unlocks anything is in the code or its documents."""
    for name in ("api_key", "oidc_client_secret", "federation_token"):
        assert reference.setting_default(name) == ""


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_setting_is_known(name):
    """No name of the published example is passed over."""
    assert name.removeprefix("ORCH_").lower() in OrchestratorSettings.model_fields


def test_the_published_settings_are_accepted(monkeypatch, tmp_path):
    """The published example loads as a .env file, and its values arrive."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in PUBLISHED.items()))
    settings = load_settings()
    assert settings.oidc_issuer == PUBLISHED["ORCH_OIDC_ISSUER"]
    assert settings.api_key.get_secret_value() == PUBLISHED["ORCH_API_KEY"]
    assert settings.federation_peers == ["http://orchestrator-us:8080", "http://orchestrator-eu:8080"]
    assert settings.health_host == "0.0.0.0"
    assert settings.ws_interval_sec == 2.0


def test_metric_names_follow_the_conventions(reference):
    """Lower case, base units, counters end in _total and nothing else does, no colon, a help text for each."""
    published = {
        "orchestrator_status",
        "orchestrator_ws_clients",
        "orchestrator_auth_failures_total",
        "provider_connection_status",
        "pipeline_events_total",
        "feedback_events_total",
        "orchestrator_control_actions_total",
        "ingest_active",
        "ingest_starts_total",
        "ingest_stops_total",
        "ingest_errors_total",
        "ingest_writes_suppressed_total",
    }
    families = reference.metric_families()
    names = [name for name, _, _, _ in families]
    assert len(names) == len(set(names))
    assert published <= set(names)
    for name, kind, labels, text in families:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name), name
        assert name in published or name.startswith(("mds_", "pipeline_node_", "pipeline_consumer_")), name
        assert (kind == "counter") == name.endswith("_total"), name
        assert not re.search(r"_(ms|us|ns|millis|kb|mb|kib|mib|percent)(_|$)", name), name
        assert kind != "histogram" or name.endswith(("_seconds", "_bytes")), name
        assert not {"le", "quantile", "job", "instance"} & set(labels), name
        assert text, name


def test_every_column_and_flag_has_a_meaning(reference):
    """Each column of each table and each flag is explained, and nothing is that is not there."""
    columns = {f.name for name in TABLES for f in STORED_SCHEMAS[name]}
    assert set(reference.MEANINGS) == columns
    assert set(reference.FLAG_MEANINGS) == {f.name for f in Flag}


def test_every_route_says_what_it_answers(reference, pages):
    """No route without a sentence, and none described that is not there."""
    shown = set(re.findall(r"^\| \S+ \| `([^`]+)`", pages["routes.md"], re.MULTILINE))
    assert shown == set(reference.ANSWERS)


def test_every_option_is_explained(pages):
    """No command, argument or option without words."""
    assert len(re.findall(r"^## mdo ", pages["commands.md"], re.MULTILINE)) >= 6
    assert not re.findall(r"^\| `.*\|\s*\|$", pages["commands.md"], re.MULTILINE)
    assert "`--json`" in pages["commands.md"]


def test_links_of_the_documents_lead_somewhere():
    """Every relative link in the Markdown files names a file that is there."""
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text("utf-8"))
        if not (page.parent / target).exists()
    ]
    assert broken == []
