"""The platform's configuration as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from market_data_orchestrator.settings import OrchestratorSettings
from market_data_pipeline.dag import Blueprint, GraphSpec
from market_data_pipeline.dag.problems import masked
from market_data_pipeline.dag.signatures import arguments


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderEntry:
    """One configured provider.

    Attributes:
        name: The user's name for it.
        provider: The installed provider it is made from.
        enabled: Whether it is started.
        symbols: What to subscribe to, upper-cased; empty for the provider's own choice.
        params: What it is made with, plain values, checked against its class if it is enabled.
        secrets: Names of the params whose values came from the environment.
    """

    name: str
    provider: str
    enabled: bool = True
    symbols: tuple[str, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict, repr=False)
    secrets: tuple[str, ...] = ()

    def arguments(self, made: type) -> dict[str, Any]:
        """Return what its class is to be called with, the symbols among it unless the choice is the provider's own."""
        symbols = {"symbols": list(self.symbols)} if self.symbols else {}
        return {**arguments(made, self.params, what=f"providers.{self.name}.params"), **symbols}

    def shown(self) -> dict[str, Any]:
        """Return the entry as plain values, secrets masked."""
        return {
            "provider": self.provider,
            "enabled": self.enabled,
            "symbols": list(self.symbols),
            "params": masked(self.params, self.secrets),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkEntry:
    """One configured sink.

    Attributes:
        name: The user's name for it.
        sink: The installed sink it is made from.
        params: What it is made with, plain values, checked against its class; what is not given of ``root`` and
            ``tenant`` the platform fills in.
        secrets: Names of the params whose values came from the environment.
    """

    name: str
    sink: str
    params: Mapping[str, Any] = field(default_factory=dict, repr=False)
    secrets: tuple[str, ...] = ()

    def arguments(self, made: type) -> dict[str, Any]:
        """Return what its class is to be called with, beside what the platform fills in."""
        return arguments(made, self.params, what=f"sinks.{self.name}.params")

    def shown(self) -> dict[str, Any]:
        """Return the entry as plain values, secrets masked."""
        return {"sink": self.sink, "params": masked(self.params, self.secrets)}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformConfig:
    """What runs: everything of it checked, the environment's and the command line's settings already in it.

    Attributes:
        source: The file it was read from; ``the packaged default`` where there is none.
        tenant: Whose tables.
        providers: In the order of the file, the disabled ones too.
        graph: What is done with their events; its sources name providers, its sinks sinks.
        sinks: In the order of the file.
        settings: By name of `OrchestratorSettings`, what the file says where neither environment nor command line do.
    """

    source: str
    tenant: str
    providers: tuple[ProviderEntry, ...] = ()
    graph: GraphSpec = field(default_factory=GraphSpec, repr=False)
    sinks: tuple[SinkEntry, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def enabled(self) -> tuple[ProviderEntry, ...]:
        """The providers to start."""
        return tuple(provider for provider in self.providers if provider.enabled)

    def applied_to(self, settings: OrchestratorSettings) -> OrchestratorSettings:
        """Return the service's settings with what this file says in all that was not set elsewhere.

        Args:
            settings: As `load_settings` gave them; those this configuration was read with.
        """
        found: dict[str, Any] = {**self.settings, "tenant_id": self.tenant}
        if self.enabled:
            found["provider"] = self.enabled[0].provider
            found["symbols"] = list(self.enabled[0].symbols)
        return settings.model_copy(update=found)

    def blueprint(self) -> Blueprint:
        """Return what a plan compares; secrets are masked, but for those in the graph, which it masks when shown."""
        return Blueprint(
            graph=self.graph,
            providers={entry.name: entry.shown() for entry in self.providers},
            sinks={entry.name: entry.shown() for entry in self.sinks},
            settings={"tenant": self.tenant, **masked(self.settings)},
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, secrets masked."""
        return {"source": self.source, **self.blueprint().to_dict()}
