"""The platform's configuration: defaults, precedence, errors with their places, and no secret anywhere."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from market_data_core.errors import ConfigurationError
from market_data_orchestrator.config import load_platform, packaged_text, record, recorded
from market_data_orchestrator.settings import load_settings
from market_data_pipeline.dag import kinds_on_edges, plan
from market_data_pipeline.source.synthetic import SyntheticSource

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch, tmp_path):
    # Neither settings of the machine nor a .env beside the tests may decide what is tested.
    for name in [name for name in os.environ if name.startswith("ORCH_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def loaded(tmp_path):
    """Loads a configuration text, with settings as from the command line."""

    def load(text, env=None, **settings):
        (tmp_path / "platform.yaml").write_text(text)
        return load_platform("platform.yaml", settings=load_settings(**settings), env=env)

    return load


@pytest.fixture
def refused(loaded):
    """The errors of a configuration text, one line each."""

    def load(text, env=None, **settings):
        with pytest.raises(ConfigurationError) as caught:
            loaded(text, env, **settings)
        return [": ".join(filter(None, e.values())) for e in caught.value.details["errors"]], str(caught.value)

    return load


def test_the_file_in_the_repository_is_the_packaged_default():
    """Users edit a copy of what holds without a file."""
    assert (ROOT / "configs" / "platform.yaml").read_text("utf-8") == packaged_text()


def test_without_a_file_the_packaged_default_holds():
    """It stores everything as it came, and one-minute bars of trades, from the synthetic provider."""
    config = load_platform()
    assert config.source == "the packaged default"
    assert [provider.name for provider in config.enabled] == ["synthetic"]
    assert [node.name for node in config.graph.of("sink")] == ["raw", "bars-trades-1m"]
    assert all(kinds_on_edges(config.graph, {}).values())
    assert config.tenant == "default"


def test_the_default_says_what_the_settings_say():
    """Applied to settings that nobody set, it changes none of their values."""
    settings = load_settings()
    applied = load_platform(settings=settings).applied_to(settings)
    assert applied.model_dump() == settings.model_dump()


def test_a_section_that_is_left_out_is_the_default_one(loaded):
    """An empty file is the default; one with a tenant alone differs in that alone."""
    default = load_platform()
    assert loaded("").to_dict() | {"source": ""} == default.to_dict() | {"source": ""}
    config = loaded("tenant: acme\n")
    assert config.tenant == "acme"
    assert config.graph.version == default.graph.version


def test_one_policy_leaves_the_others_as_they_are(loaded):
    """Policies are taken one by one."""
    settings = load_settings()
    applied = loaded("policies: {log_retention: 2h, log_max_bytes: 20G, drain: 1.5s}\n").applied_to(settings)
    assert (applied.log_retention, applied.log_max_bytes, applied.drain_sec) == (7200.0, 20 << 30, 1.5)
    assert applied.maintenance_sec == settings.maintenance_sec


def test_lateness_and_validation_reach_the_nodes_that_do_not_set_them(loaded):
    """Policies of operators become params of the graph, and a node's own value wins."""
    text = "policies: {lateness: 3s, validation: {future: 5s}}\n"
    graph = loaded(text).graph
    assert graph.node("bars-1m").params["lateness"] == "3s"
    assert graph.node("checked").params == {"future": "5s", "jump": "30d"}
    own = packaged_text().replace("what: TRADES", "lateness: 9s").replace("lateness: 0s", "lateness: 3s")
    assert loaded(own).graph.node("bars-1m").params["lateness"] == "9s"


FILE = """
tenant: from-file
providers:
  synthetic: {symbols: [AA], params: {rate: 5}}
policies: {log_retention: 2h, lateness: 2s}
"""


def test_command_line_environment_dotenv_and_file_win_in_this_order(loaded, monkeypatch, tmp_path):
    """Each of them wins over those behind it."""
    (tmp_path / ".env").write_text("ORCH_TENANT_ID=dotenv\nORCH_SYMBOLS=DD\nORCH_LOG_RETENTION=3h\n")
    monkeypatch.setenv("ORCH_TENANT_ID", "environment")
    monkeypatch.setenv("ORCH_SYMBOLS", "EE")
    settings = load_settings(tenant_id="command-line")
    (tmp_path / "platform.yaml").write_text(FILE)
    config = load_platform("platform.yaml", settings=settings)
    assert config.tenant == "command-line"
    assert config.enabled[0].symbols == ("EE",)
    applied = config.applied_to(settings)
    assert (applied.tenant_id, applied.symbols, applied.log_retention) == ("command-line", ["EE"], 10800.0)
    monkeypatch.delenv("ORCH_SYMBOLS")
    (tmp_path / ".env").unlink()
    config = loaded(FILE)
    assert (config.tenant, config.enabled[0].symbols) == ("environment", ("AA",))
    monkeypatch.delenv("ORCH_TENANT_ID")
    assert loaded(FILE).tenant == "from-file"


def test_params_and_lateness_of_the_environment_win(loaded, monkeypatch):
    """ORCH_PROVIDER_RATE and ORCH_BARS_LATENESS are what the provider and the bars get."""
    monkeypatch.setenv("ORCH_PROVIDER_RATE", "7")
    monkeypatch.setenv("ORCH_BARS_LATENESS", "1.5")
    config = loaded(FILE)
    assert config.enabled[0].params["rate"] == 7.0
    assert config.graph.node("bars-1m").params["lateness"] == "1500000000ns"


def test_a_provider_named_outside_the_file_runs_alone(loaded):
    """ORCH_PROVIDER starts one of the file's providers, or an installed one that is not in it."""
    text = "providers:\n  one: {provider: synthetic}\n  two: {provider: synthetic, enabled: false}\n"
    assert [p.name for p in loaded(text).enabled] == ["one"]
    assert [p.name for p in loaded(text, provider="two").enabled] == ["two"]
    assert [(p.name, p.provider) for p in loaded(text, provider="replay").enabled] == [("replay", "replay")]
    (error,) = _errors(lambda: loaded(text, provider="nobody"))
    assert error.startswith("ORCH_PROVIDER: providers.nobody: no market_data.providers entry point named 'nobody'")


def test_bars_named_outside_the_file_replace_those_of_the_default_graph(loaded):
    """ORCH_BARS makes the default graph's bars; the default intervals give the same graph as the file."""
    config = loaded("", bars=["1s", "5m"])
    assert [n.name for n in config.graph.of("sink")] == ["raw", "bars-trades-1s", "bars-trades-5m"]
    assert loaded(packaged_text(), bars=["1m"]).graph.version == load_platform().graph.version
    (error,) = _errors(lambda: loaded("", bars=["1x"]))
    assert error.startswith("ORCH_BARS: interval '1x'")


GRAPH = "dag:\n  nodes:\n    a: {source: all}\n    b: {sink: store}\n  edges: [a -> b]\n"


def test_bars_named_outside_a_graph_of_ones_own_are_refused(loaded):
    """Rather than being passed over, or put into a graph that somebody drew."""
    assert [n.name for n in loaded(GRAPH).graph.nodes] == ["a", "b"]
    (error,) = _errors(lambda: loaded(GRAPH, bars=["1s"]))
    assert error.startswith("platform.yaml:1: dag: ORCH_BARS")


def _errors(call):
    with pytest.raises(ConfigurationError) as caught:
        call()
    return [": ".join(filter(None, e.values())) for e in caught.value.details["errors"]]


@pytest.mark.parametrize(
    ("text", "starts", "says"),
    [
        ("tenants: x", "platform.yaml:1: tenants", "did you mean tenant?"),
        ("tenant: ../other", "platform.yaml:1: tenant", "letters"),
        ("tenant: [x]", "platform.yaml:1: tenant", "letters"),
        ("\nproviders: [x]", "platform.yaml:2: providers", "no mapping"),
        ("providers:\n  x: {}", "platform.yaml:2: providers.x", "named 'x'; there are: "),
        ("providers:\n  all: {provider: synthetic}", "platform.yaml:2: providers.all", "names none"),
        ("providers:\n  a b: {provider: synthetic}", "platform.yaml:2: providers.a b", "not allowed"),
        ("providers:\n  synthetic:\n    enabled: maybe", "platform.yaml:3: providers.synthetic.enabled", "true"),
        ("providers:\n  synthetic:\n    symbols: {}", "platform.yaml:3: providers.synthetic.symbols", "no list"),
        ("providers:\n  synthetic:\n    parms: {}", "platform.yaml:3: providers.synthetic.parms", "params?"),
        (
            "providers:\n  synthetic:\n    params:\n      rat: 5",
            "platform.yaml:4: providers.synthetic.params.rat",
            "did you mean rate?",
        ),
        (
            "providers:\n  synthetic:\n    params:\n      seed: 1\n      rate: fast",
            "platform.yaml:5: providers.synthetic.params.rate",
            "valid number",
        ),
        ("sinks:\n  store: {sink: stor}", "platform.yaml:2: sinks.store", "named 'stor'"),
        ("sinks:\n  store:\n    params: {tenant: x}", "platform.yaml:3: sinks.store.params.tenant", "no parameter"),
        ("sinks:\n  lake: {sink: store}", "the packaged default:", "there is no sink 'store'"),
        ("policies:\n  drain: 10", "platform.yaml:2: policies.drain", "without a unit"),
        ("policies:\n  log_max_bytes: big", "platform.yaml:2: policies.log_max_bytes", "no size"),
        ("policies:\n  log_max_bytes: 0", "platform.yaml:2: policies.log_max_bytes", "empty for no limit"),
        ("policies:\n  query_timeout: 0s", "platform.yaml:2: policies.query_timeout", "above 0"),
        ("policies:\n  query_max_rows: true", "platform.yaml:2: policies.query_max_rows", "from 1 up"),
        ("policies:\n  retention: 1d", "platform.yaml:2: policies.retention", "log_retention?"),
        ("policies:\n  validation:\n    futur: 1s", "platform.yaml:3: policies.validation.futur", "future?"),
        (GRAPH.replace("store", "stor"), "platform.yaml:4: b: sink", "did you mean store?"),
        (GRAPH.replace("all", "synthetc"), "platform.yaml:3: a: source", "did you mean synthetic?"),
        ("a: [", "platform.yaml:1", "is no YAML"),
    ],
)
def test_an_error_names_file_line_and_key(text, starts, says, refused):
    """Whatever is wrong, the message says where and what is allowed."""
    found, message = refused(text)
    assert any(error.startswith(starts) and says in error for error in found), found
    assert says in message


def test_errors_of_all_sections_come_at_once(refused):
    """A broken provider does not hide a broken graph or policy."""
    text = f"tenant: '!'\nproviders:\n  x: {{}}\npolicies: {{drain: x}}\n{GRAPH.replace('all', 'y')}"
    found, _ = refused(text)
    assert [error.split(":")[1] for error in found] == ["1", "3", "4", "7"]


def test_a_disabled_provider_need_not_be_installed(loaded):
    """The entry is kept for those who have it."""
    text = "providers:\n  synthetic: {}\n  theirs: {provider: not-here, enabled: false, params: {x: 1}}\n"
    assert loaded(text).providers[1].provider == "not-here"


SECRETS = """
providers:
  synthetic:
    params: {rate: ${RATE}}
  theirs:
    provider: not-here
    enabled: false
    params:
      account: ${ACCOUNT}
      api_key: written-s3cr3t
      nested: {password: deep-s3cr3t, url: "amqp://me:url-s3cr3t@host"}
"""
SECRETS = SECRETS.replace("{rate: ${RATE}}", "\n      rate: ${RATE}")
ENV = {"RATE": "31.5", "ACCOUNT": "env-s3cr3t"}


def test_secrets_arrive_and_are_never_shown(loaded, tmp_path):
    """Params hold the values; dump, plan, record and the values' own text do not."""
    config = loaded(SECRETS, ENV)
    theirs = config.providers[1]
    assert theirs.params["account"] == "env-s3cr3t"
    assert theirs.params["nested"]["password"] == "deep-s3cr3t"
    assert config.providers[0].params["rate"] == 31.5
    record(tmp_path, config.blueprint())
    shown = [
        json.dumps(config.to_dict()),
        repr(config),
        plan(None, config.blueprint()).to_text(),
        plan(None, config.blueprint()).to_json(),
        (tmp_path / "platform.json").read_text(),
    ]
    assert not any("s3cr3t" in text or "31.5" in text for text in shown)


def test_secrets_are_in_no_error(refused):
    """Errors around them mask them."""
    text = SECRETS.replace("enabled: false", "enabled: maybe-${ACCOUNT}").replace("synthetic:", "s3:")
    found, message = refused(text, {**ENV, "RATE": "fast-s3cr3t"})
    assert len(found) >= 2
    assert "s3cr3t" not in message + "".join(found)


def test_variables_come_from_dotenv_too(loaded, tmp_path, monkeypatch):
    """.env serves ${NAME} as it serves settings; the process's environment wins; what is nowhere is an error."""
    (tmp_path / ".env").write_text("SEED=3\nRATE=4\n")
    monkeypatch.setenv("RATE", "5")
    text = "providers:\n  synthetic:\n    params:\n      seed: ${SEED}\n      rate: ${RATE}\n"
    assert loaded(text).enabled[0].params == {"seed": 3, "rate": 5}
    (error,) = _errors(lambda: loaded(text.replace("SEED", "GONE")))
    assert error.startswith("platform.yaml:4: providers.synthetic.params.seed: the environment has no GONE")


def test_params_make_the_provider(loaded):
    """`arguments` are what its class takes: lists as tuples, symbols among them."""
    text = "providers:\n  synthetic: {symbols: [x, y], params: {kinds: [1, 1], rate: 0, count: 2, time: virtual}}\n"
    entry = loaded(text).enabled[0]
    assert entry.params["kinds"] == [1, 1]
    arguments = entry.arguments(SyntheticSource)
    assert arguments["kinds"] == (1, 1)
    assert SyntheticSource(**arguments).symbols == ("X", "Y")


def test_the_root_of_the_store_is_a_setting(loaded, monkeypatch):
    """A sink's root is where the store is, unless ORCH_STORE_URL says otherwise."""
    text = "sinks:\n  store: {params: {root: /mnt/lake}}\n"
    settings = load_settings()
    assert loaded(text).applied_to(settings).store_root == "/mnt/lake"
    monkeypatch.setenv("ORCH_STORE_URL", "/elsewhere")
    settings = load_settings()
    assert loaded(text).applied_to(settings).store_root == "/elsewhere"


def test_a_missing_or_unreadable_file_is_named(tmp_path, monkeypatch):
    """A file that was asked for must be there, be text, and be of a size that people write."""
    with pytest.raises(ConfigurationError, match=r"gone\.yaml: cannot be read: No such file"):
        load_platform("gone.yaml")
    monkeypatch.setenv("ORCH_CONFIG", "named.yaml")
    with pytest.raises(ConfigurationError, match=r"named\.yaml: cannot be read"):
        load_platform()
    (tmp_path / "binary.yaml").write_bytes(b"a: 1\n\xff\xfe")
    with pytest.raises(ConfigurationError, match=r"binary\.yaml:2: is not UTF-8"):
        load_platform("binary.yaml")
    (tmp_path / "large.yaml").write_bytes(b"#" * (2 << 20))
    with pytest.raises(ConfigurationError, match="larger than"):
        load_platform("large.yaml")


def test_the_file_of_the_settings_is_read_when_it_is_there(tmp_path):
    """configs/platform.yaml in the working directory holds without being named."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "platform.yaml").write_text("tenant: here\n")
    assert load_platform().tenant == "here"


def test_what_ran_is_kept_and_read_again(tmp_path):
    """The record equals the configuration it was made of; none is None, a damaged one an error that names it."""
    assert recorded(tmp_path) is None
    config = load_platform()
    record(tmp_path, config.blueprint())
    assert plan(recorded(tmp_path), config.blueprint()).is_empty
    (tmp_path / "platform.json").write_text("{")
    with pytest.raises(ConfigurationError, match=r"platform\.json"):
        recorded(tmp_path)
    (tmp_path / "platform.json").write_text("[]")
    with pytest.raises(ConfigurationError, match=r"platform\.json"):
        recorded(tmp_path)
