"""One capture, read to its end: batches in the order of its lines, and captures that overlap in time laced."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from heapq import heappop, heappush
from typing import Final

import orjson

from market_data_core.errors import SourceError
from market_data_pipeline.source.captures.exchanges import EXCHANGES
from market_data_pipeline.source.captures.files import CaptureFile, read_lines, split_line
from market_data_pipeline.source.captures.messages import WRONG, Counts, Exchange
from market_data_pipeline.source.captures.rows import Item, Rows

_SENT: Final = (b"wss://", b"ws://", b"https://", b"http://")  # frames that the recorder noted, with their address
_HEARTBEATS: Final = (b"ping", b"pong")
_YIELD_LINES: Final = 256  # so often other threads get their turn; a busy one keeps the interpreter for 5 ms


def read_capture(
    file: CaptureFile,
    rows: Rows,
    counts: Counts,
    *,
    given: int,
    block_rows: int,
    batch_rows: int,
    stopped: Callable[[], bool],
) -> Generator[Item, None, None]:
    """Give the events of a capture from place `given` on, and behind the last one the mark that closes it.

    The file is always read from its start, because what a line means depends on those before it.

    Args:
        file: What to read.
        rows: Where its events are gathered; a fresh one.
        counts: What is added to.
        given: Exclusive end of what is already safe.
        block_rows: About how many rows are gathered before they are given.
        batch_rows: At most so many rows a batch.
        stopped: Asked now and then; once true, nothing more is given.

    Raises:
        SourceError: The file is damaged, or shorter than `given`. What stands before the damage has been given.
    """
    exchange = EXCHANGES[file.exchange](rows, counts)
    try:
        with closing(read_lines(file)) as lines:
            for line in lines:
                _take(line, exchange, rows, counts)
                if rows.waiting >= block_rows:
                    yield from rows.cut(given, batch_rows)
                if counts.lines % _YIELD_LINES == 0:
                    time.sleep(0)
                    if stopped():
                        return
    except SourceError:
        yield from rows.cut(given, batch_rows)
        raise
    exchange.finish()
    yield from rows.cut(given, batch_rows)
    if given > rows.end + 1:
        raise SourceError(f"{file.path} has {rows.end} events, but {given} are said to have been read of it")
    mark = rows.mark()
    if mark is not None and given <= rows.end:
        yield mark


def _take(line: bytes, exchange: Exchange, rows: Rows, counts: Counts) -> None:
    rows.line += 1
    counts.lines += 1
    if not line or line.startswith(_SENT):
        counts.skipped["sent" if line else "blank"] += 1
        return
    try:
        rows.ts_recv, payload = split_line(line)
        if payload in _HEARTBEATS:
            counts.skipped["heartbeat"] += 1
            return
        message = orjson.loads(payload)
        if not isinstance(message, dict):
            raise TypeError("the message is no JSON object")
        exchange.take(message)
    except WRONG as exc:
        counts.malformed += 1
        reason = f"field {exc} is missing" if isinstance(exc, KeyError) else str(exc)
        rows.quarantine(reason, line)


def lace(captures: Sequence[tuple[int, Callable[[], Generator[Item, None, None]]]]) -> Generator[Item, None, None]:
    """Give the items of several captures in the order of their receive times.

    Args:
        captures: Start (UTC nanoseconds) and opener of each; one is opened when the others have come to its start.
    """
    waiting = sorted(((start, i, opened) for i, (start, opened) in enumerate(captures)), key=lambda x: x[:2])
    waiting.reverse()
    heads: list[tuple[int, int, Item, Generator[Item, None, None]]] = []
    try:
        while heads or waiting:
            while waiting and (not heads or waiting[-1][0] <= heads[0][0]):
                _, i, opener = waiting.pop()
                _push(heads, i, opener())
            if heads:
                _, i, item, items = heads[0]
                yield item
                heappop(heads)
                _push(heads, i, items)
    finally:
        for head in heads:
            head[3].close()


def _push(
    heads: list[tuple[int, int, Item, Generator[Item, None, None]]], i: int, items: Generator[Item, None, None]
) -> None:
    item = next(items, None)
    if item is not None:
        heappush(heads, (item[0], i, item, items))
