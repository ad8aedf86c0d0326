"""Databento's DBN files as the engine and as users read them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Final, cast

import numpy as np

from market_data_core.batch import SourceBatch
from market_data_core.clock import NS_PER_SECOND, Clock, SystemClock
from market_data_core.errors import ConfigurationError, InvalidInstrument, SourceError
from market_data_core.models import Quote
from market_data_core.protocols import END_OF_TIME_NS, Mark
from market_data_core.schemas import Kind, Origin
from market_data_pipeline.events import Event, iter_events, stream_events
from market_data_pipeline.source.databento.files import DbnFile, find_files
from market_data_pipeline.source.databento.reader import VENDOR, DbnReader, Run
from market_data_pipeline.source.reading import NO_TIME, Pacer, Reading
from market_data_pipeline.source.replay.events import InstrumentTable
from market_data_pipeline.source.replay.source import Progress

_PACED_S: Final = 0.05  # how much paced time goes into one batch at most

Item = tuple[SourceBatch | Mark, int]
"""What is given, and the time it reaches (`NO_TIME` if it has none)."""


class DatabentoSource:
    """Recorded market data from DBN files; a `BatchSource` that can wait for the engine, a `TickSource` for users.

    Reads ``.dbn``, ``.dbn.zst`` and pieces without metadata (``.dbn.frag``, ``.dbn.frag.zst``), of DBN versions 1 to 3
    and all their schemas, mixed ones too. Trades become trades; mbp-1, tbbo, cmbp-1 and the sampled bbo schemas quotes;
    mbp-10 and mbo depth; ohlcv bars; definition and status their like; statistics and imbalance analytics. A trade
    among the updates of a book is given as a trade too.

    Every file is a sequence of its own, named by its content. An event's number is its place among all events of the
    file, wanted or not, and behind the last stands a mark that closes the file's symbols. Files follow one another in
    the order of their first records. Of one second of a file, each kind's events stand together, quotes before trades.

    Prices are in currency units, absent ones null. `ts_event` is the venue's; where it gives none, and in sampled
    quotes, it is Databento's receive time and flagged as such. `ts_recv` is when we read the event. Instruments are
    called by the file's symbols, or by their numbers where it has none, and an exchange by Databento's publisher id.

    Args:
        paths: Files, folders and globs; of the last two only what is DBN by name.
        symbols: Only these; None for all.
        speed: Recorded seconds per second; 0 for as fast as they are taken.
        batch_rows: At most so many rows a batch.
        clock: Paces the replay.
        done: Source ids that are stored to the end, mark and all: those files are not read again.

    Raises:
        ConfigurationError: A setting is wrong.
    """

    def __init__(
        self,
        paths: Sequence[str | Path] | str | Path = (),
        *,
        symbols: Collection[str] | None = None,
        speed: float = 0.0,
        batch_rows: int = 32 * 1024,
        clock: Clock | None = None,
        done: Collection[str] = (),
    ) -> None:
        if not 0 <= speed < float("inf"):
            raise ConfigurationError(f"speed {speed} of the databento source is not 0 or a positive number")
        if batch_rows < 1:
            raise ConfigurationError(f"batch_rows {batch_rows} of the databento source is not positive")
        if isinstance(symbols, str):
            raise ConfigurationError(f"databento source: symbols is the string {symbols!r}; give a list")
        self._paths = (paths,) if isinstance(paths, str | Path) else tuple(paths)
        self._wanted = None if symbols is None else tuple(dict.fromkeys(s.strip().upper() for s in symbols))
        self._speed = speed
        self._batch_rows = batch_rows
        self._clock = clock or SystemClock()
        self._done = frozenset(done)
        self._instruments = InstrumentTable()
        self._lock = threading.Lock()
        self._planned: list[tuple[DbnFile, str]] | None = None
        self._reader: DbnReader | None = None
        # Of files that have been read to their end: how many, of these without a row, records, bytes.
        self._finished = [0, 0, 0, 0]
        self._skipped_bytes = 0
        self._latest: int | None = None
        self._quotes: dict[str, SourceBatch] = {}
        self._readings: set[Reading[list[Item]]] = set()
        self._status = "pending"
        self._closed = False

    @property
    def name(self) -> str:
        """``databento``."""
        return VENDOR

    @property
    def origin(self) -> Origin:
        """Replay."""
        return Origin.REPLAY

    @property
    def waits(self) -> bool:
        """True: files stay where they are."""
        return True

    @property
    def symbols(self) -> Sequence[str]:
        """Those asked for; where all are wanted, those met so far."""
        return self._wanted if self._wanted is not None else tuple(i.symbol for i in self._instruments.entries)

    @property
    def status(self) -> str:
        """``pending`` until the first event, then ``live``; ``closed`` after `close` or the last event."""
        return self._status

    @property
    def progress(self) -> Progress:
        """How far the files are read; rows are DBN records here."""
        planned = self._planned or []
        total = sum(f.size_bytes for f, _ in planned)
        done, empty, records, size_bytes = self._finished
        reader = self._reader
        if reader is not None:
            records += reader.records
            size_bytes += reader.consumed_bytes
        complete = done == len(planned)
        estimate = records if complete or not size_bytes else records * (total - self._skipped_bytes) // size_bytes
        return Progress(
            files_total=len(planned),
            files_done=done,
            files_empty=empty,
            rows_total_estimate=estimate,
            rows_read=records,
            rows_rejected=0,
            bytes_total=total,
            bytes_read=min(self._skipped_bytes + size_bytes, total),
            ts_event=self._latest,
        )

    def plan(self) -> list[tuple[Path, str, str, int]]:
        """Return what will be read, in that order: path, schema, source id and size in bytes of each file.

        Files are hashed and their metadata read for it, so it takes time the first time. A file that is there twice is
        read once.

        Raises:
            ConfigurationError: There is nothing to read.
            SourceError: A file cannot be read, or is no DBN file of version 1 to 3.
        """
        return [(f.path, schema, f.source_id, f.size_bytes) for f, schema in self._plan()]

    def _plan(self) -> list[tuple[DbnFile, str]]:
        with self._lock:
            if self._planned is None:
                begun = []
                for file in find_files(self._paths):
                    with closing(DbnReader(file)) as reader:
                        begun.append((reader.start_ns, file, reader.schema))
                self._planned = [(file, schema) for _, file, schema in sorted(begun, key=lambda b: b[0])]
            return self._planned

    async def batches(self, resume: Mapping[str, int]) -> AsyncGenerator[SourceBatch | Mark, None]:
        """Give the events of all files, and behind each file's the mark that ends it.

        Files are read in a thread of their own, a little ahead.

        Args:
            resume: By source id, the exclusive end of what is already safe. Other sources' ids are ignored.

        Raises:
            ConfigurationError: There is nothing to read.
            SourceError: A file cannot be read; names file and place. What stands before it has been given.
        """
        if self._closed:
            return
        reading = Reading(lambda _stopped: self._items(dict(resume)), name="databento")
        self._readings.add(reading)
        pacer = Pacer(self._clock, self._speed)
        try:
            while stretches := await reading.pull():
                for stretch in stretches:
                    for item, reached_ns in stretch:
                        await pacer.wait(reached_ns, reading)
                        if reading.stopped():
                            return
                        self._note(item, reached_ns)
                        yield item
                    # Several stretches come at once; the loop's other work goes in between them.
                    await asyncio.sleep(0)
            if not reading.stopped():
                self._status = "closed"
        finally:
            self._readings.discard(reading)
            await reading.close()

    async def stream(self) -> AsyncGenerator[Event, None]:
        """Give quotes, trades and bars one by one, from the first on; none after `close`."""
        async with aclosing(stream_events(self, self._clock)) as events:
            async for event in events:
                if self._closed:
                    return
                yield event

    async def get_quote(self, symbol: str) -> Quote:
        """Return how a symbol stands where the events given have come to; before any, its first quote in the files.

        Raises:
            InvalidInstrument: The files have no quote of that symbol, or it was not asked for.
            SourceError: They cannot be read.
        """
        wanted = symbol.strip().upper()
        found = self._quotes.get(wanted) or await asyncio.to_thread(self._first_quote, wanted)
        if found is None:
            raise InvalidInstrument(
                f"databento source has no quote of {symbol!r} in {', '.join(map(str, self._paths))}"
            )
        return cast("Quote", next(iter_events(found, origin=self.origin, ts_recv_ns=self._clock.now_ns())))

    async def close(self) -> None:
        """Stop giving events and release what the source holds. May be called twice."""
        self._status, self._closed = "closed", True
        for reading in tuple(self._readings):
            await reading.close()

    def _note(self, item: SourceBatch | Mark, reached_ns: int) -> None:
        if isinstance(item, Mark):
            return
        self._status = "live"
        self._latest = max(reached_ns, self._latest or reached_ns)
        if item.kind is Kind.QUOTES:
            self._quotes.update(_newest(item))

    def _items(self, resume: Mapping[str, int]) -> Generator[list[Item], None, None]:
        planned = self._plan()
        left = [file for file, _ in planned if file.source_id not in self._done]
        self._finished = [len(planned) - len(left), 0, 0, 0]
        self._skipped_bytes = sum(f.size_bytes for f, _ in planned if f.source_id in self._done)
        for file in left:
            with closing(DbnReader(file, instruments=self._instruments, symbols=self._wanted)) as reader:
                self._reader = reader
                yield from self._file_items(file, reader, resume.get(file.source_id, 0))
                self._reader = None
            counted = (1, int(not reader.records), reader.records, file.size_bytes)
            self._finished = [a + b for a, b in zip(self._finished, counted, strict=True)]

    def _file_items(self, file: DbnFile, reader: DbnReader, given: int) -> Iterator[list[Item]]:
        for stretch in reader.stretches():
            items = [item for run in stretch for item in self._cut(file, run, given)]
            if items:
                yield items
        if given > reader.rows + 1:
            raise SourceError(f"{file.path} has {reader.rows} events, but {given} are said to have been read of it")
        if reader.seen and given <= reader.rows:
            mark = Mark(
                vendor=VENDOR,
                ts_ns=END_OF_TIME_NS,
                symbols=tuple(reader.seen),
                source_id=file.source_id,
                offset=reader.rows + 1,
            )
            yield [(mark, NO_TIME)]

    def _cut(self, file: DbnFile, run: Run, given: int) -> Iterator[Item]:
        first, end = int(np.searchsorted(run.numbers, given)), len(run.numbers)
        edges = {*range(first, end, self._batch_rows), end}
        if self._speed:
            step_ns = max(1, int(_PACED_S * self._speed * NS_PER_SECOND))
            steps = np.flatnonzero(np.diff(run.reached // step_ns)) + 1
            edges.update(steps[steps > first].tolist())
        for start, stop in pairwise(sorted(edges)):
            batch = SourceBatch(
                kind=run.kind,
                data=run.data.slice(start, stop - start),
                instruments=self._instruments.entries,
                source_id=file.source_id,
                offset=int(run.numbers[stop - 1]) + 1,
            )
            yield batch, int(run.reached[stop - 1])

    def _first_quote(self, symbol: str) -> SourceBatch | None:
        if self._wanted is not None and symbol not in self._wanted:
            return None
        table = InstrumentTable()
        for file, _ in self._plan():
            with closing(DbnReader(file, instruments=table, symbols={symbol})) as reader:
                for stretch in reader.stretches():
                    for run in stretch:
                        if run.kind is Kind.QUOTES:
                            return SourceBatch(kind=run.kind, data=run.data.slice(0, 1), instruments=table.entries)
        return None


# The last quote of each symbol in a batch. Of places written to several times the last write stays.
def _newest(batch: SourceBatch) -> Iterator[tuple[str, SourceBatch]]:
    ids = batch.data.column("instrument").to_numpy()
    rows = np.full(int(ids.max()) + 1, -1)
    rows[ids] = np.arange(len(ids))
    for place in np.flatnonzero(rows >= 0).tolist():
        yield batch.instruments[place].symbol, replace(batch, data=batch.data.slice(int(rows[place]), 1))
