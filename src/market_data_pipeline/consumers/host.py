"""All consumers of one log, run together: in threads of this process, or of a worker process of its own."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from market_data_core import disk
from market_data_core.errors import MarketDataError, PipelineError
from market_data_core.protocols import Store
from market_data_pipeline.consumers.consumer import Consumer
from market_data_pipeline.consumers.model import ConsumerSettings, ConsumerSpec
from market_data_pipeline.consumers.snapshot import Snapshot, read_snapshot, write_snapshot
from market_data_pipeline.writing.dead_letters import DeadLetters


@dataclass(frozen=True, slots=True, kw_only=True)
class HostStatus:
    """How the consumers are doing.

    Attributes:
        consumers: By name: the fields of `ConsumerStatus`; as ``ledger`` its counts by node and, of a graph, as
            ``flow`` what went from node to node.
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
        """The position below which everything is in the store; other sinks count where there is no store."""
        every = list(self.consumers.values())
        stores = [c for c in every if not c.get("own_sink")]
        return min((int(c["committed"]) for c in stores or every), default=0)


class ConsumerHost:
    """Starts, watches and stops the consumers of one log.

    Args:
        specs: What runs.
        log_folder: The log.
        store: Where their tables are.
        folder: Where their snapshots are; made if it is not there.
        letters: Where rows go that their tables refuse; a folder ``dead_letters`` beside `folder` if None.
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
        letters: DeadLetters | None = None,
        settings: ConsumerSettings | None = None,
        durable: Callable[[], int] | None = None,
    ) -> None:
        disk.make_dirs(folder)
        # A process that was killed may have left a snapshot whose name a power cut would still take back. The log is
        # trimmed by what it says.
        disk.sync_dir(folder)
        self._folder = folder
        self._make = partial(
            Consumer,
            log_folder=log_folder,
            store=store,
            folder=folder,
            letters=letters or DeadLetters(folder.parent / "dead_letters"),
            settings=settings,
            durable=durable,
        )
        self._consumers = [self._make(spec) for spec in specs]
        # What `prepare` was told, and who ends for it.
        self._wanted: dict[str, ConsumerSpec] = {}
        self._ending: frozenset[str] = frozenset()

    def start(self) -> None:
        """Start all consumers."""
        for consumer in self._consumers:
            consumer.start()

    def hurry(self, end: int) -> None:
        """Have all consumers commit what is below a position as soon as they have taken it."""
        for consumer in self._consumers:
            consumer.hurry(end)

    def prepare(self, specs: Sequence[ConsumerSpec], change: str) -> None:
        """Have the consumers that change or go end at the log's record of a change, which is still to be written.

        Args:
            specs: What is to run from there on.
            change: Names the change in that record.
        """
        wanted, running = {s.name: s for s in specs}, {c.spec.name: c for c in self._consumers}
        untouched = {n for n in wanted.keys() & running.keys() if wanted[n].same_as(running[n].spec)}
        for name in running.keys() - untouched:
            running[name].end_at(change)
        self._wanted, self._ending = wanted, frozenset(running.keys() - untouched)

    def apply(self, *, at: int, covers: Mapping[str, int], timeout_s: float) -> dict[str, list[str]]:
        """Run what was prepared from the record of the change on: all of it, or nothing is changed.

        Consumers that stay as they are run on untouched. One that changes ends at the record and goes on there with
        its new configuration; one that is added begins there.

        Args:
            at: The position behind the record.
            covers: By source id, the exclusive end of what the log has below it.
            timeout_s: How long consumers may take to come there.

        Returns:
            The names of consumers ``added``, ``changed``, ``removed`` and ``untouched``, each sorted.

        Raises:
            PipelineError: Some did not get there in time; names them. They and all others go on as before.
            TemporaryUnavailable: Where a new one begins cannot be written down; all go on as before.
        """
        wanted, running = self._wanted, {c.spec.name: c for c in self._consumers}
        changed = sorted(self._ending & wanted.keys())
        added, removed = sorted(wanted.keys() - running.keys()), sorted(self._ending - wanted.keys())
        until = time.monotonic() + timeout_s
        ending = [running[n] for n in (*changed, *removed)]
        late = [c.spec.name for c in ending if not c.join(max(until - time.monotonic(), 0.0))]
        try:
            if late:
                raise PipelineError(f"{', '.join(late)} did not come to seq {at} in time; all goes on as before")
            for name in added:
                spec = wanted[name]
                begin = Snapshot(position=at, covers=dict(covers), config=spec.config, versions=dict(spec.versions))
                write_snapshot(self._folder / f"{name}.snapshot", begin)
            for name in removed:
                # What it stored stays in the tables; who recounts them has to know whose it is.
                with contextlib.suppress(FileNotFoundError):
                    (self._folder / f"{name}.snapshot").replace(self._folder / f"{name}.removed")
        except (OSError, MarketDataError):
            self.cancel()
            raise
        fresh = [self._make(wanted[n]) for n in (*changed, *added)]
        self._consumers = [*(c for c in self._consumers if c not in ending), *fresh]
        for consumer in fresh:
            consumer.start()
        self._ending = frozenset()
        untouched = sorted(wanted.keys() - set(changed) - set(added))
        return {"added": added, "changed": changed, "removed": removed, "untouched": untouched}

    def cancel(self) -> None:
        """Go on as before `prepare`; consumers that have ended already begin again where they ended."""
        for place, consumer in enumerate(self._consumers):
            if consumer.spec.name in self._ending and not consumer.go_on():
                self._consumers[place] = self._make(consumer.spec)
                self._consumers[place].start()
        self._ending = frozenset()

    def status(self) -> HostStatus:
        """Return how every consumer is doing now."""
        return HostStatus(
            consumers={
                c.spec.name: {**asdict(c.status), "ledger": c.ledger(), "flow": c.flow()} for c in self._consumers
            }
        )

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
    written = store.written()
    floor = 0
    for spec in specs:
        saved = snapshots[spec.name]
        floor = max(floor, saved.position if saved else 0)
        # A sink of its own is made when the consumer runs; its position is in the snapshot too, or behind it.
        for name in written.intersection(spec.routes.values()) if spec.sink is None else ():
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
