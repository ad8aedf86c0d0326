from __future__ import annotations

import re

import pytest

from market_data_core.errors import RegistryError
from market_data_core.protocols import ProviderRegistry
from market_data_pipeline.orchestration import SourceRegistry
from market_data_pipeline.source.synthetic import SyntheticSource


class Mine:
    """A provider of a user."""

    def __init__(self, *, symbols):
        self.symbols = symbols


@pytest.fixture
def registry():
    return SourceRegistry()


async def test_loads_and_makes_a_provider(registry):
    """`registry.load("synthetic")(symbols=[...])` works, through the entry point like anybody's."""
    source = registry.load("synthetic")(symbols=["AAPL"])
    assert isinstance(source, SyntheticSource)
    assert (await source.get_quote("AAPL")).symbol == "AAPL"
    await source.close()


def test_discovers_entry_points(registry):
    """Installed providers are named, ours among them."""
    assert {"synthetic", "replay"} <= set(registry.discover_entrypoints())


def test_registered_classes_go_first(registry):
    """A user's class stands in for an installed one of the same name."""
    registry.register("synthetic", Mine)
    assert registry.load("synthetic") is Mine


def test_loads_by_import_path(registry):
    """`package.module:Class` needs no registration."""
    assert registry.load("market_data_pipeline.source.synthetic:SyntheticSource") is SyntheticSource


def test_an_unknown_name_says_what_there_is(registry):
    """The error lists what is registered and what is installed."""
    registry.register("mine", Mine)
    with pytest.raises(RegistryError, match=r"'nowhere'.*mine.*synthetic"):
        registry.load("nowhere")


@pytest.mark.parametrize(
    "path", ["nowhere.at.all:Thing", "market_data_pipeline.events:Nothing", "math:pi", ":X", "a b:C", "math:"]
)
def test_a_bad_import_path_is_an_error_of_ours(registry, path):
    """Whatever is wrong with a path, the error names it."""
    with pytest.raises(RegistryError, match=re.escape(repr(path))):
        registry.load(path)


@pytest.mark.parametrize(("name", "cls"), [("", Mine), ("a:b", Mine), ("mine", Mine(symbols=[]))])
def test_only_classes_under_proper_names(registry, name, cls):
    """Objects, empty names and import paths cannot be registered."""
    with pytest.raises(RegistryError):
        registry.register(name, cls)


def test_a_name_keeps_its_meaning(registry):
    """Registering the same again is fine, something else is not."""
    registry.register("mine", Mine)
    registry.register("mine", Mine)
    with pytest.raises(RegistryError, match="mine"):
        registry.register("mine", SyntheticSource)


def test_is_the_published_protocol(registry):
    """A `SourceRegistry` is a `ProviderRegistry`."""
    assert isinstance(registry, ProviderRegistry)
