"""Recorded files as a source of market data."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, cast

import numpy as np

from market_data_core.batch import SourceBatch
from market_data_core.clock import NS_PER_SECOND, Clock, SystemClock
from market_data_core.errors import ConfigurationError, InvalidInstrument
from market_data_core.models import Quote
from market_data_core.protocols import Mark
from market_data_core.schemas import Kind, Origin
from market_data_pipeline.events import Event, iter_events, stream_events
from market_data_pipeline.source.reading import NO_TIME, Pacer, Reading
from market_data_pipeline.source.replay.events import InstrumentTable
from market_data_pipeline.source.replay.files import Part, detected, expand, find_parts
from market_data_pipeline.source.replay.foreign import owner_of
from market_data_pipeline.source.replay.layout import Layout, load_layout
from market_data_pipeline.source.replay.merge import Item, Merge
from market_data_pipeline.source.replay.reader import Counts, first_time

_PACED_S: Final = 0.05  # how much paced time goes into one batch at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a replay is. Reading runs a little ahead of what has been given.

    Attributes:
        files_total: Parts to read; each member of a zip counts as one.
        files_done: Of these, read to the end or done before.
        files_empty: Of these, without a row.
        rows_total_estimate: Rows of all parts, judged by bytes; 0 while nothing is known.
        rows_read: Rows parsed, with those that a resume skips.
        rows_rejected: Of these, quarantined.
        bytes_total: Size on disk.
        bytes_read: Of these, read.
        ts_event: The latest recorded time given, UTC nanoseconds; None before the first.
    """

    files_total: int
    files_done: int
    files_empty: int
    rows_total_estimate: int
    rows_read: int
    rows_rejected: int
    bytes_total: int
    bytes_read: int
    ts_event: int | None


class ReplaySource:
    """Recorded market data, from files of any declared layout, as a `BatchSource` that can wait.

    Every file (or member of a zip, or zip of joined members) is a sequence of its own, named by its content, in which
    an event's number is its row; rows that are quarantined or not wanted count, and where rows hold several events
    side by side each row takes as many numbers. Behind its last row come the marks that close it.

    Args:
        paths: Files, folders and globs. Plain, ``.gz`` and ``.zip``.
        layout: A packaged layout's name, a YAML file or a `Layout`; None to detect each file's.
        symbols: Only these; None for all.
        speed: Recorded seconds per second; 0 for as fast as they are taken.
        batch_rows: At most so many rows a batch.
        clock: Paces the replay.
        done: Source ids that are stored to the end, marks and all: those files are not read again.

    Raises:
        ConfigurationError: A setting is wrong.
    """

    def __init__(
        self,
        paths: Sequence[str | Path] | str | Path = (),
        layout: str | Path | Layout | None = None,
        *,
        symbols: Collection[str] | None = None,
        speed: float = 0.0,
        batch_rows: int = 32 * 1024,
        clock: Clock | None = None,
        done: Collection[str] = (),
    ) -> None:
        if not 0 <= speed < float("inf"):
            raise ConfigurationError(f"speed {speed} of the replay is not 0 or a positive number")
        if batch_rows < 1:
            raise ConfigurationError(f"batch_rows {batch_rows} of the replay is not positive")
        self._paths = (paths,) if isinstance(paths, str | Path) else tuple(paths)
        self._layout = None if layout is None else load_layout(layout)
        self._symbols = None if symbols is None else frozenset(s.strip().upper() for s in symbols)
        self._speed = speed
        self._batch_rows = batch_rows
        self._clock = clock or SystemClock()
        self._done = frozenset(done)
        self._instruments = InstrumentTable()
        self._parts: list[Part] | None = None
        self._counts = Counts()
        self._merge: Merge | None = None
        self._skipped_bytes = 0
        self._latest: int | None = None
        self._runs: set[Reading[Item]] = set()
        self._closed = False

    @property
    def name(self) -> str:
        """The source's name."""
        return "replay"

    @property
    def origin(self) -> Origin:
        """Replay."""
        return Origin.REPLAY

    @property
    def waits(self) -> bool:
        """True: files stay where they are."""
        return True

    @property
    def progress(self) -> Progress:
        """How far the replay is."""
        parts, counts = self._parts or [], self._counts
        total = sum(p.size_bytes for p in parts)
        read = self._skipped_bytes + (self._merge.consumed_bytes() if self._merge else 0)
        parsed = read - self._skipped_bytes
        complete = counts.files_done == len(parts)
        estimate = counts.rows_read if complete or parsed <= 0 else counts.rows_read * total // parsed
        return Progress(
            files_total=len(parts),
            files_done=counts.files_done,
            files_empty=counts.files_empty,
            rows_total_estimate=estimate,
            rows_read=counts.rows_read,
            rows_rejected=counts.rows_rejected,
            bytes_total=total,
            bytes_read=min(read, total),
            ts_event=self._latest,
        )

    def plan(self) -> list[tuple[Path, Layout, str, int]]:
        """Return what will be read: path, layout, source id and size in bytes, one entry per file or member of a zip.

        Files are hashed for it, so it takes time the first time. A file that is there twice is read once.

        Raises:
            ConfigurationError: There is nothing to read, or a file whose layout is not known.
            SourceError: A file cannot be read.
        """
        return [(p.path, p.layout, p.source_id, p.size_bytes) for p in self._planned()]

    def _planned(self) -> list[Part]:
        if self._parts is None:
            found: dict[str, Part] = {}
            for path in self._paths:
                for part in self._find(path):
                    twin = found.setdefault(part.source_id, part)
                    moved = _seat(twin) != _seat(part)
                    if moved and first_time(part) != NO_TIME:
                        raise ConfigurationError(
                            f"{twin.place} and {part.place} hold the same bytes, but their paths say "
                            "another symbol or day"
                        )
            if not found:
                raise ConfigurationError("a replay needs at least one file: paths is empty")
            self._parts = [p for p in found.values() if self._wants(p)]
        return self._parts

    def _wants(self, part: Part) -> bool:
        return self._symbols is None or part.symbol is None or part.symbol in self._symbols

    def _find(self, path: str | Path) -> Iterator[Part]:
        all_files, named = expand(path)
        files = all_files
        if not named:
            files = [f for f in files if (self._layout.matches_file(f) if self._layout else detected(f))]
            if not files:
                what = f"layout {self._layout.name}" if self._layout else "any known layout"
                raise ConfigurationError(f"no file at {str(path)!r} is of {what}{_others(all_files)}")
        for file in files:
            yield from find_parts(file, self._layout)

    async def batches(self, resume: Mapping[str, int]) -> AsyncIterator[SourceBatch | Mark]:
        """Give the events of all files in about recorded order, and the marks that end each.

        Files are read in a thread of their own, a few batches ahead.

        Args:
            resume: By source id, the exclusive end of what is already safe.

        Raises:
            ConfigurationError: There is nothing to read, or a file whose layout is not known.
            SourceError: A file cannot be read; names it. What was given before stands.
        """
        run = Reading(partial(self._items, dict(resume)), name="replay")
        self._runs.add(run)
        pacer = Pacer(self._clock, self._speed)
        try:
            while items := await run.pull():
                for item, reached_ns in items:
                    if reached_ns != NO_TIME:
                        await pacer.wait(reached_ns, run)
                        self._latest = reached_ns if self._latest is None else max(self._latest, reached_ns)
                    if run.stopped():
                        return
                    yield item
                    # Several batches come at once; the loop's other work goes in between them.
                    await asyncio.sleep(0)
        finally:
            self._runs.discard(run)
            await run.close()

    def _items(self, resume: Mapping[str, int], stopped: Callable[[], bool]) -> Generator[Item, None, None]:
        parts = self._planned()
        left = [p for p in parts if p.source_id not in self._done]
        self._counts = Counts(files_done=len(parts) - len(left))
        self._skipped_bytes = sum(p.size_bytes for p in parts if p.source_id in self._done)
        self._merge = Merge(
            left,
            resume=resume,
            instruments=self._instruments,
            symbols=self._symbols,
            batch_rows=self._batch_rows,
            step_ns=max(1, int(_PACED_S * self._speed * NS_PER_SECOND)) if self._speed else None,
            counts=self._counts,
            stopped=stopped,
        )
        yield from self._merge.items()

    async def stream(self) -> AsyncGenerator[Event, None]:
        """Give quotes, trades and bars one by one, from the first on; none after `close`."""
        async with aclosing(stream_events(self, self._clock)) as events:
            async for event in events:
                if self._closed:
                    return
                yield event

    async def get_quote(self, symbol: str) -> Quote:
        """Return how a symbol stands where the events given have come to; before any, its first quote in the files.

        Looked for in the files, from their start.

        Raises:
            InvalidInstrument: The files have no quote of that symbol, or it was not asked for.
            SourceError: They cannot be read.
        """
        wanted = symbol.strip().upper()
        found = None
        if self._symbols is None or wanted in self._symbols:
            found = await asyncio.to_thread(self._quote_at, wanted, self._latest)
        if found is None:
            raise InvalidInstrument(f"replay has no quote of {symbol!r} in {', '.join(map(str, self._paths))}")
        return cast("Quote", next(iter_events(found, origin=self.origin, ts_recv_ns=self._clock.now_ns())))

    def _quote_at(self, symbol: str, ts_ns: int | None) -> SourceBatch | None:
        last: SourceBatch | None = None
        looking = ReplaySource(self._paths, self._layout, symbols=[symbol])
        with closing(looking._items({}, lambda: False)) as items:
            for item, _ in items:
                if isinstance(item, Mark) or item.kind is not Kind.QUOTES:
                    continue
                times = item.data.column("ts_event").to_numpy()
                row = 0 if ts_ns is None else int(np.searchsorted(times, ts_ns, "right")) - 1
                if row >= 0 or last is None:
                    last = replace(item, data=item.data.slice(max(row, 0), 1))
                if row + 1 < len(times):
                    break
        return last

    async def close(self) -> None:
        """Stop giving events and release what the source holds. May be called twice."""
        self._closed = True
        for run in tuple(self._runs):
            await run.close()


# What of a part's identity is not in its bytes.
def _seat(part: Part) -> tuple[str | None, str | None, int | None]:
    return part.symbol, part.underlying, part.midnight


def _others(files: Sequence[Path]) -> str:
    return next((f"; {f.name} is {owner}" for f in files if (owner := owner_of(f))), "")
