"""Captured WebSocket sessions as a source of market data."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Generator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Final

import pyarrow as pa

from market_data_core.batch import SourceBatch
from market_data_core.clock import Clock, SystemClock
from market_data_core.errors import ConfigurationError, InvalidInstrument
from market_data_core.models import Quote
from market_data_core.protocols import Gap, Mark
from market_data_core.schemas import Kind, Origin
from market_data_pipeline.events import Event, iter_events, stream_events
from market_data_pipeline.source.captures.exchanges import EXCHANGES
from market_data_pipeline.source.captures.files import CaptureFile, find_captures
from market_data_pipeline.source.captures.messages import Counts
from market_data_pipeline.source.captures.reader import lace, read_capture
from market_data_pipeline.source.captures.rows import Item, Rows
from market_data_pipeline.source.reading import Reading
from market_data_pipeline.source.replay.events import UNKNOWN_SYMBOL, InstrumentTable

_ALL_BLOCKS_ROWS: Final = 512 * 1024  # of all files together, so that memory does not grow with their number
_LEAST_BLOCK_ROWS: Final = 1024
_SPAN_NS: Final = 100_000_000  # of one batch where several files are laced


class CaptureSource:
    """Trades, best quotes and order books from raw WebSocket captures, as a `BatchSource` that can wait.

    A file's events come in the order of its lines, batches of several kinds in turn; files that overlap in time are
    laced by receive time. `ts_event` is the exchange's time; where a message has none (book tickers and REST snapshots
    of Binance spot) it is the receive time, with ``Flag.TS_EVENT_SYNTHETIC``. `ts_recv` is the recorder's line stamp.

    Order books come as ``depth``: a row per changed level, the last one of a message with ``Flag.LAST``; a snapshot
    is a ``clear`` row and its levels, all with ``Flag.SNAPSHOT``. Where updates are missing, there is a status row
    ``gap`` (and a `Gap`), and rows carry ``Flag.MAYBE_BAD_BOOK`` up to the next snapshot; Binance's updates since then
    that are newer than that snapshot come again behind it. Of OKX every book's checksum is verified: where it differs,
    a status row ``bad_checksum`` stands before the message's rows, which are flagged too.

    Every file is a sequence of its own, named by its content, in which an event's number is its place among all
    events, those of unwanted symbols included; behind the last one comes the mark that closes it.

    Args:
        paths: Files, folders and globs. Plain and ``.gz``.
        symbols: Only these, as the exchange writes them in upper case; None for all.
        exchange: ``binance``, ``binance_usdm`` or ``okx``; None to detect it from each file's first lines.
        batch_rows: At most so many rows a batch.
        clock: Stamps what `stream` gives of lines without a receive time.

    Raises:
        ConfigurationError: A setting is wrong.

    Source:
        The exchanges' own public streams, as recorded: see `market_data_pipeline.source.captures.binance` and `.okx`.
    """

    def __init__(
        self,
        paths: Sequence[str | Path] | str | Path = (),
        symbols: Collection[str] | None = None,
        exchange: str | None = None,
        *,
        batch_rows: int = 32 * 1024,
        clock: Clock | None = None,
    ) -> None:
        if exchange is not None and exchange not in EXCHANGES:
            raise ConfigurationError(f"exchange {exchange!r} of captures is none of {', '.join(EXCHANGES)}")
        if batch_rows < 1:
            raise ConfigurationError(f"batch_rows {batch_rows} of captures is not positive")
        if isinstance(symbols, str):
            raise ConfigurationError(f"symbols of captures is the string {symbols!r}; give a list")
        self._paths = (paths,) if isinstance(paths, str | Path) else tuple(paths)
        self._symbols = None if symbols is None else frozenset(s.strip().upper() for s in symbols)
        self._exchange = exchange
        self._batch_rows = batch_rows
        self._clock = clock or SystemClock()
        self._instruments = InstrumentTable()
        self._files: list[CaptureFile] | None = None
        self._counts = Counts()
        self._readings: set[Reading[Item]] = set()
        self._status = "pending"
        # By symbol, its newest quote of whichever vendor, as a batch of one row.
        self._quotes: dict[str, SourceBatch] = {}

    @property
    def name(self) -> str:
        """``captures``."""
        return "captures"

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
        """What was asked for, sorted; if that was everything, what has been met so far."""
        if self._symbols is not None:
            return sorted(self._symbols)
        return sorted({e.symbol for e in self._instruments.entries} - {UNKNOWN_SYMBOL})

    @property
    def status(self) -> str:
        """``pending`` until the first event, then ``live``; ``closed`` after `close` or the last event."""
        return self._status

    @property
    def lines(self) -> int:
        """Lines read in the newest run, a little ahead of what has been given."""
        return self._counts.lines

    @property
    def malformed(self) -> int:
        """Of these, quarantined."""
        return self._counts.malformed

    @property
    def skipped(self) -> Mapping[str, int]:
        """Messages without an event of ours: sent frames, answers, other channels, what a snapshot already holds."""
        return dict(self._counts.skipped)

    @property
    def checksums_ok(self) -> int:
        """Books whose checksum agreed with the exchange's."""
        return self._counts.checksums_ok

    @property
    def checksums_bad(self) -> int:
        """Books whose checksum did not."""
        return self._counts.checksums_bad

    def plan(self) -> list[CaptureFile]:
        """Return what will be read. Files are hashed for it the first time; one that is there twice is read once.

        Raises:
            ConfigurationError: There is nothing to read, or a file of no known exchange.
            SourceError: A file cannot be read.
        """
        if self._files is None:
            found = [f for path in self._paths for f in find_captures(path, self._exchange)]
            if not found:
                raise ConfigurationError("captures need at least one file: paths is empty")
            self._files = list({f.source_id: f for f in reversed(found)}.values())[::-1]
        return list(self._files)

    async def batches(self, resume: Mapping[str, int]) -> AsyncGenerator[SourceBatch | Gap | Mark, None]:
        """Give the events of all files, and the mark that ends each.

        Files are read in a thread of their own, a little ahead.

        Args:
            resume: By source id, the exclusive end of what is already safe.

        Raises:
            ConfigurationError: There is nothing to read, or a file of no known exchange.
            SourceError: A file cannot be read; names it. What was given before stands.
        """
        self._counts = Counts()
        async with aclosing(self._run(dict(resume), self._counts)) as items:
            async for item in items:
                self._status = "live"
                if isinstance(item, SourceBatch) and item.kind is Kind.QUOTES:
                    self._note(item)
                yield item
        self._status = "closed"

    async def stream(self) -> AsyncGenerator[Event, None]:
        """Give trades and quotes from the first on, one by one; none after `close`."""
        async with aclosing(stream_events(self, self._clock)) as events:
            async for event in events:
                yield event

    async def get_quote(self, symbol: str) -> Quote:
        """Return the newest quote given of a symbol, or its first one in the files if none has been given.

        Raises:
            InvalidInstrument: The files have no quote of the symbol.
            SourceError: A file cannot be read.
        """
        key = symbol.strip().upper()
        found = self._quotes.get(key)
        if found is None:
            async with aclosing(self._run({}, Counts())) as items:
                async for item in items:
                    if isinstance(item, SourceBatch) and item.kind is Kind.QUOTES:
                        found = _newest(item, first=True).get(key)
                    if found is not None:
                        break
        if found is None:
            raise InvalidInstrument(f"the captures have no quote of {symbol!r}")
        (quote,) = iter_events(found, origin=self.origin)
        if not isinstance(quote, Quote):
            raise InvalidInstrument(f"the captures have no quote of {symbol!r}")
        return quote

    async def close(self) -> None:
        """Stop giving events and release what the source holds. May be called twice."""
        self._status = "closed"
        for reading in tuple(self._readings):
            await reading.close()

    async def _run(self, resume: Mapping[str, int], counts: Counts) -> AsyncGenerator[SourceBatch | Gap | Mark, None]:
        reading = Reading(partial(self._items, resume, counts), name="captures", ahead=32)
        self._readings.add(reading)
        try:
            while items := await reading.pull():
                for _, item in items:
                    if reading.stopped():
                        return
                    yield item
                # Many come at once; the loop's other work goes in between them.
                await asyncio.sleep(0)
        finally:
            self._readings.discard(reading)
            await reading.close()

    def _items(
        self, resume: Mapping[str, int], counts: Counts, stopped: Callable[[], bool]
    ) -> Generator[Item, None, None]:
        files = self.plan()
        block_rows = max(_LEAST_BLOCK_ROWS, min(self._batch_rows, _ALL_BLOCKS_ROWS // len(files)))
        span_ns = _SPAN_NS if len(files) > 1 else None

        def opened(file: CaptureFile) -> Generator[Item, None, None]:
            rows = Rows(
                vendor=EXCHANGES[file.exchange].vendor,
                source_id=file.source_id,
                instruments=self._instruments,
                symbols=self._symbols,
                span_ns=span_ns,
            )
            given = resume.get(file.source_id, 0)
            return read_capture(
                file,
                rows,
                counts,
                given=given,
                block_rows=block_rows,
                batch_rows=self._batch_rows,
                stopped=stopped,
            )

        yield from lace([(file.start_ns, partial(opened, file)) for file in files])

    def _note(self, quotes: SourceBatch) -> None:
        self._quotes.update(_newest(quotes))


# By symbol the newest quote (or the first one) of a batch, as a batch of one row; copied, for a slice would keep alive
# the whole block it is cut from.
def _newest(quotes: SourceBatch, *, first: bool = False) -> dict[str, SourceBatch]:
    ids = quotes.data.column("instrument").to_pylist()
    rows = enumerate(ids) if not first else reversed(list(enumerate(ids)))
    places = {i: row for row, i in rows}
    return {
        quotes.instruments[i].symbol: SourceBatch(
            kind=Kind.QUOTES, data=quotes.data.take(pa.array([row])), instruments=quotes.instruments
        )
        for i, row in places.items()
    }
