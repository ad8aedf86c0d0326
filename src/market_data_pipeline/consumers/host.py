"""All consumers of one log, run together: in threads of this process, or of a worker process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from market_data_core import disk
from market_data_core.protocols import Store
from market_data_pipeline.consumers.consumer import Consumer
from market_data_pipeline.consumers.model import ConsumerSettings, ConsumerSpec
from market_data_pipeline.consumers.snapshot import read_snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class HostStatus:
    """How the consumers are doing.

    Attributes:
        consumers: By name: the fields of `ConsumerStatus` and, as ``ledger``, its counts by node.
        store: What the store says of itself, such as maintenance and repairs.
    """

    consumers: dict[str, dict[str, Any]] = field(default_factory=dict)
    store: dict[str, Any] = field(default_factory=dict)

    @property
    def trim_below(self) -> int:
        """The position below which no consumer needs the log."""
        return min((int(c["snapshot"]) for c in self.consumers.values()), default=0)

    @property
    def committed(self) -> int:
        """The position below which everything is in the store."""
        return min((int(c["committed"]) for c in self.consumers.values()), default=0)


class ConsumerHost:
    """Starts, watches and stops the consumers of one log.

    Args:
        specs: What runs.
        log_folder: The log.
        store: Where their tables are.
        folder: Where their snapshots are; made if it is not there.
        settings: When they commit.
        durable: Says how far the log may be read.
    """

    def __init__(
        self,
        specs: Sequence[ConsumerSpec],
        *,
        log_folder: Path,
        store: Store,
        folder: Path,
        settings: ConsumerSettings | None = None,
        durable: Callable[[], int] | None = None,
    ) -> None:
        disk.make_dirs(folder)
        self._consumers = [
            Consumer(spec, log_folder=log_folder, store=store, folder=folder, settings=settings, durable=durable)
            for spec in specs
        ]

    def start(self) -> None:
        """Start all consumers."""
        for consumer in self._consumers:
            consumer.start()

    def status(self) -> HostStatus:
        """Return how every consumer is doing now."""
        return HostStatus(consumers={c.spec.name: {**asdict(c.status), "ledger": c.ledger()} for c in self._consumers})

    @property
    def is_running(self) -> bool:
        """True while any consumer may still write."""
        return any(not consumer.join(0.0) for consumer in self._consumers)

    def stop(self, *, drain_to: int | None, timeout_s: float) -> list[str]:
        """Stop all consumers, with everything below `drain_to` committed where time allows.

        Returns:
            The names of those that did not get there in time.
        """
        for consumer in self._consumers:
            consumer.stop(drain_to=drain_to)
        until = time.monotonic() + timeout_s
        late = [c for c in self._consumers if not c.join(max(until - time.monotonic(), 0.0))]
        for consumer in late:
            consumer.stop()
        for consumer in late:
            consumer.join(2.0)
        return [c.spec.name for c in late]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where consumers stand before a log is opened.

    Attributes:
        floor: The highest position any of them has committed; no number below it may be given out again.
        needed_from: The lowest position any of them reads from.
        covers: By source id, the exclusive end of what all of them have seen.
    """

    floor: int
    needed_from: int
    covers: dict[str, int]


def standing(specs: Sequence[ConsumerSpec], store: Store, folder: Path) -> Standing:
    """Find out where consumers stand, from their snapshots and tables."""
    snapshots = {spec.name: read_snapshot(folder / f"{spec.name}.snapshot") for spec in specs}
    floor = 0
    for spec in specs:
        saved = snapshots[spec.name]
        floor = max(floor, saved.position if saved else 0)
        for name in set(spec.routes.values()):
            floor = max(floor, store.table(name).position(spec.name) or 0)
    covers = [s.covers if s else {} for s in snapshots.values()]
    return Standing(
        floor=floor,
        needed_from=min((s.position if s else 0 for s in snapshots.values()), default=0),
        covers=_lowest(covers),
    )


def _lowest(covers: Sequence[Mapping[str, int]]) -> dict[str, int]:
    shared = set.intersection(*(set(c) for c in covers)) if covers else set()
    return {source_id: min(c[source_id] for c in covers) for source_id in shared}


def resume_offsets(logged: Mapping[str, int], covers: Mapping[str, int]) -> dict[str, int]:
    """Return, by source id, from where sources go on.

    What is in the log need not be given again, and neither need what every consumer has seen; the latter is further
    only after the log was lost or restored from an older copy.
    """
    return {s: max(logged.get(s, 0), covers.get(s, 0)) for s in {*logged, *covers}}
