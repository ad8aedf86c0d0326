"""The ports through which ingestion control writes: those of an engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from market_data_core.protocols import BatchSource
from market_data_pipeline.capture import SourceStatus
from market_data_pipeline.runners.errors import AlreadyRunning

if TYPE_CHECKING:
    from market_data_pipeline.engine import Engine  # whoever has none yet needs none of what it loads

_RUNNING = frozenset({"pending", "live", "waiting"})


class EngineWriter:
    """Writes through an engine: its log, and from there to its store.

    Args:
        engine: Returns the engine, opening it first if need be. It may raise what opening raises, or
            TemporaryUnavailable while there is none. Called by a thread that may wait.
        opened: Returns the engine if it is open; never waits.
    """

    def __init__(self, engine: Callable[[], Engine], *, opened: Callable[[], Engine | None]) -> None:
        self._engine = engine
        self._opened = opened

    def start_source(self, source: BatchSource) -> SourceStatus:
        """Begin to take events from a source, from where it left off.

        Raises:
            AlreadyRunning: Events are taken from a source of that name already, whoever started it.
        """
        engine = self._engine()
        status = engine.capture.sources.get(source.name)
        if status is not None and status.state in _RUNNING:
            raise AlreadyRunning(f"a source named {source.name!r} is running already")
        return engine.add(source)

    def stop_source(self, name: str) -> None:
        """Stop taking events from a source; what it has given is stored."""
        engine = self._opened()
        if engine is not None:
            engine.capture.remove(name)

    def stored_to(self) -> int:
        """Return the log position up to which everything is in the store."""
        engine = self._opened()
        return 0 if engine is None else engine.consumers().committed
