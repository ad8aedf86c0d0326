"""From a provider's entry to a source, and what is done with one whose events are not written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final

from market_data_core import plugins
from market_data_core.batch import SourceBatch
from market_data_core.clock import Clock
from market_data_core.errors import ConfigurationError, RegistryError
from market_data_core.protocols import BatchSource, Gap, Mark
from market_data_core.schemas import Origin
from market_data_pipeline.capture import SourceStatus
from market_data_pipeline.runners.policy import ProviderEntry

DRY_RUN_EVENTS_PER_SECOND: Final = 50_000.0
"""How fast events are read that are not written, where the provider's pacing does not say."""

_NAP_S: Final = 0.25  # the longest sleep, so that closing is not held up by a slow pace


class NamedSource:
    """A provider's source under the name it is started by, and no faster than asked for.

    Args:
        name: What it is called.
        source: What is read.
        events_per_second: Most events per second, on average; None for no limit.
        clock: Paces it.
    """

    def __init__(self, name: str, source: BatchSource, *, events_per_second: float | None, clock: Clock) -> None:
        self._name = name
        self._source = source
        self._rate = events_per_second
        self._clock = clock
        self._closed = False

    @property
    def name(self) -> str:
        """The provider's name."""
        return self._name

    @property
    def origin(self) -> Origin:
        """As of the source itself."""
        return self._source.origin

    @property
    def waits(self) -> bool:
        """As of the source itself."""
        return self._source.waits

    async def batches(self, resume: Mapping[str, int]) -> AsyncIterator[SourceBatch | Mark | Gap]:
        """Give what the source gives, in its order."""
        due_s = self._clock.monotonic_s()
        items = self._source.batches(resume)
        try:
            async for item in items:
                yield item
                if self._rate is not None and isinstance(item, SourceBatch):
                    due_s = max(due_s, self._clock.monotonic_s() - _NAP_S) + item.data.num_rows / self._rate
                    await self._wait_until(due_s)
                if self._closed:
                    return
        finally:
            if isinstance(items, AsyncGenerator):
                await items.aclose()  # ends what it holds now, not when it is collected

    async def close(self) -> None:
        """Stop giving events and release what the source holds."""
        self._closed = True
        await self._source.close()

    async def _wait_until(self, due_s: float) -> None:
        # At least once: a source that never waits must not keep the loop from everything else.
        await self._clock.sleep(0)
        while not self._closed and (left_s := due_s - self._clock.monotonic_s()) > 0:
            await self._clock.sleep(min(left_s, _NAP_S))


def make_source(
    name: str,
    entry: ProviderEntry,
    *,
    symbols: Sequence[str],
    override_params: Mapping[str, Any],
    paced: bool,
    clock: Clock,
) -> NamedSource:
    """Make the source of a provider.

    Args:
        name: The provider's name.
        entry: What is configured of it.
        symbols: What to read; empty for the source's own choice.
        override_params: Instead of the entry's params of these names.
        paced: Whether it is slowed down even if it cannot wait, because nothing it gives is kept.
        clock: Paces it.

    Raises:
        ConfigurationError: There is no such entry point, or its class does not take what it is given.
    """
    kind = entry.provider or name
    try:
        made = plugins.load(plugins.PROVIDERS, kind)
    except RegistryError as exc:
        # Whoever starts it named a provider that is configured: what is wrong is the configuration.
        raise ConfigurationError(f"provider {name!r}: {exc.message}") from exc
    arguments = {**entry.params, **override_params}
    if symbols:
        arguments["symbols"] = list(symbols)
    try:
        source = made(**arguments)
    except ConfigurationError as exc:
        raise ConfigurationError(f"provider {name!r}: {exc.message}") from exc
    except (TypeError, ValueError) as exc:
        given = ", ".join(sorted(arguments)) or "no arguments"
        raise ConfigurationError(
            f"provider {name!r}: {made.__name__} does not take what it is given ({given})"
        ) from exc
    if not isinstance(source, BatchSource):
        raise ConfigurationError(f"provider {name!r}: {made.__name__} gives no batches of events")
    rate = entry.pacing.events_per_second
    if paced:
        rate = rate or DRY_RUN_EVENTS_PER_SECOND
    elif not source.waits:
        rate = None  # slowing down a live feed only loses what it sends
    return NamedSource(name, source, events_per_second=rate, clock=clock)


async def read_only(source: BatchSource, status: SourceStatus, *, count: Callable[[int], None], clock: Clock) -> None:
    """Read a source to its end, counting its events and keeping none.

    Args:
        source: Read from its beginning.
        status: Kept up to date, as capture does.
        count: Told how many events came.
        clock: Stamps the events that have no receive time.

    Raises:
        Exception: Whatever the source raised; `status` says that it failed.
    """
    try:
        async for item in source.batches({}):
            if not isinstance(item, SourceBatch) or not item.data.num_rows:
                continue
            rows = item.data.num_rows
            status.events += rows
            status.state = "live"
            status.ts_event = int(item.data.column(1)[rows - 1].as_py())
            status.ts_recv = int(item.data.column(2)[rows - 1].as_py()) or clock.now_ns()
            count(rows)
        status.state = "done"
    except asyncio.CancelledError:
        status.state = "stopped"
        raise
    except Exception as exc:
        status.state, status.problem = "failed", str(exc)
        raise
    finally:
        await source.close()
