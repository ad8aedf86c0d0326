"""The two configuration files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market_data_core.errors import ConfigurationError
from market_data_pipeline.runners import IngestPolicy, ProviderEntry, load_ingest_config
from market_data_pipeline.runners.policy import POLICY_FILE, PROVIDERS_FILE, packaged_default
from market_data_pipeline.runners.yamlfile import parse_model

CONFIGS = Path(__file__).resolve().parents[3] / "configs"


@pytest.mark.parametrize("name", [PROVIDERS_FILE, POLICY_FILE])
def test_the_files_in_configs_are_the_packaged_defaults(name):
    """What users begin to edit is what holds without them."""
    assert (CONFIGS / name).read_text("utf-8") == packaged_default(name)


def test_an_empty_folder_means_the_packaged_defaults(tmp_path):
    """Synthetic data can be read at once, recordings once they are named, and the policy is the models' own."""
    config = load_ingest_config(tmp_path)
    assert {name: entry.enabled for name, entry in config.providers.items()} == {"synthetic": True, "replay": False}
    assert config.policy == IngestPolicy()


def test_what_is_written_holds(tmp_path):
    """Symbols are upper-cased; what is left out has its default."""
    (tmp_path / PROVIDERS_FILE).write_text("providers:\n  tape: {provider: replay, enabled: true, symbols: [aapl]}\n")
    (tmp_path / POLICY_FILE).write_text("write_path: {max_runtime_seconds: 5}\nguards:\n")
    with pytest.raises(ConfigurationError, match=r"ingestion_policy.yaml:2: guards"):
        load_ingest_config(tmp_path)
    (tmp_path / POLICY_FILE).write_text("write_path: {max_runtime_seconds: 5}\n")
    config = load_ingest_config(tmp_path)
    assert config.providers == {"tape": ProviderEntry(provider="replay", enabled=True, symbols=("AAPL",))}
    assert config.policy.write_path.max_runtime_seconds == 5
    assert config.policy.guards.require_provider_enabled is True


def test_every_mistake_of_both_files_is_named(tmp_path):
    """File, line and key of each, in the message and as data; no value is shown."""
    (tmp_path / PROVIDERS_FILE).write_text(
        "providers:\n"
        "  synthetic:\n"
        "    enabled: hunter2\n"
        "    symbols: [AAPL, ON, aapl]\n"
        "    pacing:\n"
        "      events_per_second: -1\n"
        "  replay:\n"
        "    enabld: true\n"
    )
    (tmp_path / POLICY_FILE).write_text("store_sync:\n  mode: carrier-pigeon\n")
    with pytest.raises(ConfigurationError) as wrong:
        load_ingest_config(tmp_path)
    errors = {(Path(e["where"]).name, e["field"]) for e in wrong.value.details["errors"]}
    assert errors == {
        ("data_providers.yaml:3", "providers.synthetic.enabled"),
        ("data_providers.yaml:4", "providers.synthetic.symbols.1"),
        ("data_providers.yaml:6", "providers.synthetic.pacing.events_per_second"),
        ("data_providers.yaml:8", "providers.replay.enabld"),
        ("ingestion_policy.yaml:2", "store_sync.mode"),
    }
    for where, field in errors:
        assert f"{where}: {field}: " in wrong.value.message
    assert "hunter2" not in wrong.value.message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("providers: [", r":1: not YAML"),
        ("providers:\n\t- x", r":2: not YAML"),
        ("providers:\n  a: {}\n  a: {}\n", r":3: providers.a: is given twice"),
        ("- a\n- b\n", r":1: "),
        ("providers:\n  'a b': {}\n", r":2: providers.a b"),
        ("providers:\n  a:\n    symbols: [A, a]\n", r":3: providers.a.symbols: .*twice"),
        ("providers: !!python/object:os.system {}\n", r"not YAML"),
        ("\x00", r"not YAML"),
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path, text, says):
    """With the line."""
    (tmp_path / PROVIDERS_FILE).write_text(text)
    with pytest.raises(ConfigurationError, match=says):
        load_ingest_config(tmp_path)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    """A folder of that name, and bytes that are no UTF-8."""
    (tmp_path / PROVIDERS_FILE).mkdir()
    (tmp_path / POLICY_FILE).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match=r"cannot be read.*not UTF-8"):
        load_ingest_config(tmp_path)


@pytest.mark.parametrize(
    ("sync", "says"),
    [
        ({"mode": "http"}, "needs the url"),
        ({"mode": "http", "url": "ftp://x"}, "needs the url"),
        ({"mode": "http", "url": "http://user:hunter2@x/"}, "may not hold"),
        ({"mode": "http", "url": "http://x/?token=hunter2"}, "may not hold"),
    ],
)
def test_http_needs_a_url_without_secrets(sync, says):
    """Nothing calls out unless it is told where, and what is shown holds no password."""
    text = f"store_sync: {sync}"
    with pytest.raises(ConfigurationError, match=says) as wrong:
        parse_model(IngestPolicy, text, name="policy")
    assert "hunter2" not in wrong.value.message


def test_secrets_are_hidden_in_what_is_shown():
    """By how arguments are called, at any depth."""
    entry = ProviderEntry(
        params={"api_key": "s1", "login": {"Password": "s2", "user": "u"}, "auths": [{"token": "s3"}], "rate": 5}
    )
    shown = entry.shown()
    assert not {"s1", "s2", "s3"} & set(str(shown).replace("'", " ").split())
    assert shown["params"]["login"]["user"] == "u"
    assert shown["params"]["rate"] == 5


@given(st.text(max_size=200))
def test_any_text_is_taken_or_refused(text):
    """Never with another error."""
    try:
        policy = parse_model(IngestPolicy, text, name="policy")
    except ConfigurationError as exc:
        places = [e["where"] for e in exc.details["errors"]]
    else:
        places = [type(policy).__name__]
    assert places
