from __future__ import annotations

import pytest
from pydantic import ValidationError

from market_data_core import (
    Capability,
    CompositeSettings,
    ConfigurationError,
    CoreSettings,
    ProviderConfig,
    ProviderSpec,
    SinkConfig,
    SinkSpec,
    WiringPlan,
)
from market_data_core.settings import (
    BatchSettings,
    PacingSettings,
    PoolSettings,
    QueueSettings,
    WebSocketSettings,
)

VARIABLES = {
    "MARKET_DATA_WATCHLIST": "aapl, msft,,",
    "MARKET_DATA_PROVIDER": "ibkr",
    "DATABASE_URL": "postgresql://md:pw@db:5432/market",
    "METRICS_PORT": "9100",
    "LOG_LEVEL": "debug",
    "TELEMETRY_ENABLED": "false",
    "IBKR_HOST": "gateway",
    "IBKR_PORT": "4001",
    "IBKR_CLIENT_ID": "7",
    "IBKR_MARKET_DATA_TYPE": "3",
}


@pytest.fixture
def environment(monkeypatch):
    """The process's environment with none of the core's variables set."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_registry_values_have_the_published_names():
    """Specifications, configurations and plans have the published fields."""
    capability = Capability(name="stream_quotes", params={"max_symbols": "100"})
    provider = ProviderSpec(name="ibkr", module="market_data_ibkr", entry="IBKRProvider", capabilities=[capability])
    assert provider.model_dump() == {
        "name": "ibkr",
        "module": "market_data_ibkr",
        "entry": "IBKRProvider",
        "capabilities": [{"name": "stream_quotes", "params": {"max_symbols": "100"}}],
    }
    assert set(SinkSpec(name="s", module="m", entry="E", kind="bars").model_dump()) == {
        "name",
        "module",
        "entry",
        "kind",
    }
    plan = WiringPlan(providers=[ProviderConfig(name="ibkr", params={"port": 4001})], sinks=[SinkConfig(name="store")])
    assert plan.model_dump() == {
        "providers": [{"name": "ibkr", "params": {"port": 4001}}],
        "sinks": [{"name": "store", "params": {}}],
    }
    assert CompositeSettings().model_dump() == {
        "pipeline": {},
        "store": {},
        "orchestrator": {},
        "auth": {},
        "federation": {},
    }


@pytest.mark.parametrize(
    "value",
    [
        ProviderSpec(name="p", module="m", entry="E", capabilities=[Capability(name="c")]),
        SinkSpec(name="s", module="m", entry="E", kind="bars"),
        WiringPlan(providers=[ProviderConfig(name="p", params={"a": [1, 2]})]),
        CompositeSettings(store={"dsn": "lake"}),
        CoreSettings(watchlist=["AAPL"]),
    ],
    ids=lambda v: type(v).__name__,
)
def test_settings_round_trip_and_are_frozen(value):
    """A value read back from its JSON is the same, and no field of it can be set."""
    assert type(value).model_validate_json(value.model_dump_json()) == value
    field = next(iter(value.model_dump()))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(value, field, getattr(value, field))


def test_misspelt_settings_are_refused():
    """A name that does not exist is an error, not passed over."""
    with pytest.raises(ValidationError, match="provders"):
        WiringPlan.model_validate({"provders": []})


@pytest.mark.parametrize("watchlist", [["aapl", " msft", "", "AAPL"], ("aapl", "MSFT"), "aapl, msft,, AAPL ,"])
def test_watchlist_from_list_or_text(watchlist):
    """A watchlist is taken as a list or with commas, upper-cased, without empty entries, each symbol once."""
    assert CoreSettings(watchlist=watchlist).watchlist == ["AAPL", "MSFT"]


@pytest.mark.parametrize("watchlist", [5, [1, 2], {"AAPL": 1}, None])
def test_watchlist_of_anything_else_is_refused(watchlist):
    """What is no list of symbols is refused."""
    with pytest.raises(ValidationError, match="watchlist"):
        CoreSettings(watchlist=watchlist)


def test_from_env_reads_every_published_variable(environment):
    """All ten variables arrive in their fields, in their types."""
    for name, value in VARIABLES.items():
        environment.setenv(name, value)
    settings = CoreSettings.from_env()
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == VARIABLES["DATABASE_URL"]
    assert settings.model_dump(include=set(CoreSettings.model_fields) - {"database_url"}) == CoreSettings(
        watchlist=["AAPL", "MSFT"],
        provider="ibkr",
        metrics_port=9100,
        log_level="DEBUG",
        telemetry_enabled=False,
        ibkr_host="gateway",
        ibkr_port=4001,
        ibkr_client_id=7,
        ibkr_market_data_type=3,
    ).model_dump(exclude={"database_url"})


def test_nothing_set_is_the_defaults(environment):
    """Without variables the settings are the defaults; an empty variable counts as not set."""
    environment.setenv("IBKR_PORT", "")
    environment.setenv("DATABASE_URL", " ")
    assert CoreSettings.from_env() == CoreSettings()


def test_constructor_reads_no_environment(environment):
    """Only `from_env` looks at the environment."""
    for name, value in VARIABLES.items():
        environment.setenv(name, value)
    environment.setenv("PROVIDER", "ibkr")
    assert CoreSettings() == CoreSettings.from_env({})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("METRICS_PORT", "http"),
        ("METRICS_PORT", "65536"),
        ("LOG_LEVEL", "loud"),
        ("TELEMETRY_ENABLED", "perhaps"),
        ("IBKR_PORT", "0"),
        ("IBKR_CLIENT_ID", "-1"),
        ("IBKR_MARKET_DATA_TYPE", "5"),
    ],
)
def test_wrong_variable_is_named_with_its_value(name, value):
    """A wrong value is a configuration error that says which variable and what it held."""
    with pytest.raises(ConfigurationError) as caught:
        CoreSettings.from_env({name: value})
    assert name in caught.value.message
    assert repr(value) in caught.value.message


def test_all_wrong_variables_are_named_at_once():
    """Two mistakes take one start to find."""
    with pytest.raises(ConfigurationError, match=r"METRICS_PORT='x'.*IBKR_PORT='y'"):
        CoreSettings.from_env({"METRICS_PORT": "x", "IBKR_PORT": "y"})


@pytest.mark.parametrize(
    "address", ["mysql://md:hunter2@db/market", "postgresql://md:hunter2@db:port/market", "postgresql://md:hunter2@[db"]
)
def test_password_never_shows(address):
    """No error and no text of the settings repeats any part of a database address."""
    with pytest.raises(ConfigurationError, match="DATABASE_URL") as caught:
        CoreSettings.from_env({"DATABASE_URL": address, "IBKR_PORT": "0"})
    assert "hunter2" not in str(caught.value)
    assert caught.value.__suppress_context__
    with pytest.raises(ValidationError) as direct:
        CoreSettings(database_url=address)
    assert "hunter2" not in str(direct.value)
    settings = CoreSettings(database_url="postgresql://md:hunter2@db/market")
    assert "hunter2" not in repr(settings) + settings.model_dump_json()


@pytest.mark.parametrize(
    "address", ["postgresql://db/market", "postgres://db/m", "s3://bucket/lake", "file:///lake", "./lake"]
)
def test_every_backend_can_be_addressed(address):
    """PostgreSQL, object storage and folders are all taken."""
    settings = CoreSettings.from_env({"DATABASE_URL": address})
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == address


@pytest.mark.parametrize(
    "model", [CoreSettings, QueueSettings, BatchSettings, PoolSettings, WebSocketSettings, PacingSettings]
)
def test_every_setting_is_described(model):
    """Each setting says what it is."""
    assert [name for name, field in model.model_fields.items() if not field.description] == []


def test_contradicting_limits_are_refused():
    """A lower limit above its upper limit is refused."""
    with pytest.raises(ValidationError, match="soft_ratio"):
        QueueSettings(soft_ratio=0.9, hard_ratio=0.5)
    with pytest.raises(ValidationError, match="min_connections"):
        PoolSettings(min_connections=11, max_connections=10)
