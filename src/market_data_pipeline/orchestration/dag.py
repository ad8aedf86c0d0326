"""Runs a graph by itself: its sources, a log, and a consumer per sink."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from market_data_core import disk
from market_data_core.clock import Clock
from market_data_core.errors import ConfigurationError, SourceError
from market_data_core.protocols import BatchSource
from market_data_pipeline.compiler import SinkDef
from market_data_pipeline.consumers import ConsumerSettings
from market_data_pipeline.dag import ALL_SOURCES, GraphSpec, parse_graph
from market_data_pipeline.engine import Engine, EngineSettings
from market_data_pipeline.orchestration.registry import SourceRegistry
from market_data_pipeline.orchestration.settings import ProviderSettings

_LOOK_S = 0.05


class GraphRunner:
    """Runs graphs until their sources have ended; what they store is durable.

    Args:
        data_dir: Where log, snapshots and lake are.
        providers: What the graph's sources are made with, by name; a source that is not among them is a provider's
            own name.
        sinks: What the graph's sinks stand for, by name.
        registry: Where providers are found.
        clock: Stamps arrivals.
        drain_s: How long consumers may take at the end; what is left is stored by the next run.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        providers: Mapping[str, ProviderSettings] | None = None,
        sinks: Mapping[str, SinkDef] | None = None,
        registry: SourceRegistry | None = None,
        clock: Clock | None = None,
        drain_s: float = 30.0,
    ) -> None:
        self._data_dir = data_dir
        self._providers = dict(providers or {})
        self._sinks = dict(sinks or {})
        self._registry = registry or SourceRegistry()
        self._clock = clock
        self._drain_s = drain_s

    async def __call__(self, dag: GraphSpec | Mapping[str, Any] | str | Path) -> dict[str, dict[str, Any]]:
        """Run a graph, and wait until every source has ended and everything is in the sinks.

        Args:
            dag: A graph, the same as a mapping, YAML text, or a file of it.

        Returns:
            By consumer, its state and ledger, as `ConsumerHost.status` gives them.

        Raises:
            ConfigurationError: The graph, a source or a sink is wrong; names every place.
            SourceError: A source failed; what it gave before is stored.
        """
        graph, sources = self._parts(dag)
        await asyncio.to_thread(disk.make_dirs, self._data_dir)
        settings = EngineSettings(
            data_dir=self._data_dir,
            graph=graph.to_json(reveal=True),
            sinks=self._sinks,
            vendors={name: getattr(s, "vendors", ()) for name, s in sources.items() if hasattr(s, "vendors")},
            commit=ConsumerSettings(commit_s=0.5),
        )
        engine = Engine(settings, clock=self._clock)
        await asyncio.to_thread(engine.open)
        try:
            for source in sources.values():
                engine.add(source)
            for source in sources.values():
                await engine.capture.wait(source.name)
            end = engine.log.end
            while not await asyncio.to_thread(engine.wait_stored, end, _LOOK_S) and not engine.problem:
                pass
            failed = [s for s in engine.capture.sources.values() if s.state == "failed"]
        finally:
            await asyncio.to_thread(engine.close, self._drain_s)
        if failed:
            raise SourceError(f"source {failed[0].name} failed: {failed[0].problem}")
        return engine.consumers().consumers

    def _parts(self, dag: GraphSpec | Mapping[str, Any] | str | Path) -> tuple[GraphSpec, dict[str, BatchSource]]:
        graph = dag if isinstance(dag, GraphSpec) else self._parsed(dag)
        named = [node for node in graph.of("source") if node.type != ALL_SOURCES]
        sources = {name: self._source(name) for name in dict.fromkeys(node.type for node in named)}
        if not sources:
            raise ConfigurationError("the graph names no source to run: give it one beside `all`")
        return graph, sources

    def _parsed(self, dag: Mapping[str, Any] | str | Path) -> GraphSpec:
        file = "dag"
        if isinstance(dag, Path):
            try:
                file, dag = str(dag), dag.read_text("utf-8")
            except (OSError, UnicodeDecodeError) as exc:
                raise ConfigurationError(f"graph {file} cannot be read: {exc}") from exc
        known = {*self._providers, *self._registry.discover_entrypoints()}
        return parse_graph(dag, file=file, providers=known, sinks={"store", "null", "memory", *self._sinks})

    def _source(self, name: str) -> BatchSource:
        given = self._providers.get(name, ProviderSettings())
        params = dict(given.params)
        if given.symbols:
            params["symbols"] = given.symbols
        try:
            source = self._registry.load(name)(**params)
        except TypeError as exc:
            raise ConfigurationError(f"source {name!r}: {exc}") from exc
        if not isinstance(source, BatchSource):
            raise ConfigurationError(f"source {name!r} gives no batches of events, which a graph needs")
        return source
