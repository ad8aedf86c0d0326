"""Lines of the user's models into a store, the good ones, with a word on each of the others."""

from __future__ import annotations

import contextlib
import gzip
import io
import math
import queue
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson
import pydantic

from market_data_core.clock import Clock, SystemClock
from market_data_core.errors import ConfigurationError, SchemaValidationError, TemporaryUnavailable, ValidationError
from market_data_store.backend import Backend, Upserted
from mds_client.models import Bar, Fundamentals, News, OptionSnap, StoredRow
from mds_client.rows import TABLES, rows_from_models
from mds_client.transfer.files import STANDARD
from mds_client.transfer.ndjson_codec import parsed
from mds_client.transfer.pieces import shown
from mds_client.transfer.tables import Progress

KINDS: Final[Mapping[str, type[StoredRow]]] = {
    "bars": Bar,
    "fundamentals": Fundamentals,
    "news": News,
    "options": OptionSnap,
}
"""What a line can be, by the name users give."""

_CHUNK: Final = 1 << 16
_WAITING_CHUNKS: Final = 8
# How often progress is told, and may end it all, while a pipe is silent.
_TELL_S: Final = 0.5
_LONGEST_LINE: Final = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """A line that could not be taken.

    Attributes:
        line: Its number, from 1.
        field: Which field is wrong; empty where it is the whole line.
        why: What is wrong with it.
        raw: The line.
    """

    line: int
    field: str
    why: str
    raw: str


@dataclass(slots=True, kw_only=True)
class Ingested:
    """What became of the lines.

    Attributes:
        lines: How many there were, without empty ones.
        stored: What became of those that were taken.
        rejected: How many were not.
    """

    lines: int = 0
    stored: Upserted = field(default_factory=Upserted)
    rejected: int = 0


@dataclass(frozen=True, slots=True)
class _Line:
    number: int
    raw: bytes
    model: StoredRow


def ingest(
    backend: Backend,
    kind: str,
    source: str | Path,
    *,
    max_rows: int = 1000,
    max_ms: int = 5000,
    max_bytes: int = 1 << 20,
    rejected: Callable[[Rejected], None] | None = None,
    progress: Progress | None = None,
    clock: Clock | None = None,
) -> Ingested:
    """Store the models on the lines of a file, a batch at a time; bad lines are told and passed over.

    A batch goes to the store when it has so many rows or bytes, or when its first line has waited so long: what a
    slow pipe gives is stored while the pipe is open. Doing it again changes nothing.

    Args:
        backend: Whose data, and where; a line without ``tenant_id`` is its tenant's, one of another is not taken.
        kind: ``bars``, ``fundamentals``, ``news`` or ``options``.
        source: NDJSON, compressed or not; ``-`` is standard input.
        max_rows: A batch goes to the store when it has so many rows,
        max_ms: or when its first has waited so many milliseconds,
        max_bytes: or when its lines have so many bytes.
        rejected: Told of each line that is not taken, in no promised order.
        progress: Told how many lines were dealt with.
        clock: Says when rows were received.

    Raises:
        ConfigurationError: There is no such kind or file.
        SchemaValidationError: Compressed content is damaged, or a line is longer than 16 MiB; lines before are stored.
        TemporaryUnavailable: The store is away, or the file cannot be read; lines before are stored.
    """
    if kind not in KINDS:
        raise ConfigurationError(f"there is no kind {kind!r}; there are {', '.join(KINDS)}")
    work = _Ingestion(
        backend,
        KINDS[kind],
        limits=(max_rows, max_bytes, max_ms / 1000),
        rejected=rejected or (lambda _line: None),
        clock=clock or SystemClock(),
    )
    with _opened(str(source)) as (stream, name), contextlib.closing(_Chunks(stream, name)) as chunks:
        while (chunk := chunks.next(min(_TELL_S, work.due_in_s()))) is not None:
            for number, raw in chunk:
                work.take(number, raw, name)
            work.flush_if_due()
            if progress is not None:
                progress(work.done.lines, None)
    work.flush()
    return work.done


class _Ingestion:
    def __init__(
        self,
        backend: Backend,
        model: type[StoredRow],
        *,
        limits: tuple[int, int, float],
        rejected: Callable[[Rejected], None],
        clock: Clock,
    ) -> None:
        self._backend = backend
        self._model = model
        self._max_rows, self._max_bytes, self._max_s = limits
        self._tell = rejected
        self._clock = clock
        self._held: list[_Line] = []
        self._size_bytes = 0
        self._since_s = 0.0
        self.done = Ingested()

    def take(self, number: int, raw: bytes, name: str) -> None:
        self.done.lines += 1
        try:
            values = parsed(raw, number, name)
            model = self._model.model_validate({"tenant_id": self._backend.tenant, **values})
        except pydantic.ValidationError as exc:
            first = exc.errors(include_url=False)[0]
            place = ".".join(str(p) for p in first["loc"])
            self._reject(number, raw, place, f"{first['msg']}: {shown(first['input'])}" if place else first["msg"])
            return
        except ValidationError as exc:
            self._reject(number, raw, str(exc.details.get("field") or ""), exc.message)
            return
        if model.tenant_id != self._backend.tenant:
            self._reject(number, raw, "tenant_id", f"{shown(model.tenant_id)} is not {shown(self._backend.tenant)}")
            return
        if not self._held:
            self._since_s = time.monotonic()
        self._held.append(_Line(number, raw, model))
        self._size_bytes += len(raw)
        if len(self._held) >= self._max_rows or self._size_bytes >= self._max_bytes:
            self.flush()

    def due_in_s(self) -> float:
        if not self._held:
            return math.inf
        return max(0.0, self._since_s + self._max_s - time.monotonic())

    def flush_if_due(self) -> None:
        if self.due_in_s() <= 0:
            self.flush()

    def flush(self) -> None:
        held, self._held, self._size_bytes = self._held, [], 0
        if held:
            self._put(held)

    def _put(self, lines: list[_Line]) -> None:
        # One bad row takes none of the others with it: it is left out, or looked for by halves.
        while lines:
            try:
                rows = rows_from_models([line.model for line in lines])
                self.done.stored += self._backend.upsert(TABLES[self._model], rows, now_ns=self._clock.now_ns())
            except ValidationError as exc:
                row = exc.details.get("row")
                if isinstance(row, int) and row < len(lines):
                    bad = lines[row]
                    lines = lines[:row] + lines[row + 1 :]
                elif len(lines) == 1:
                    bad, lines = lines[0], []
                else:
                    middle = len(lines) // 2
                    self._put(lines[:middle])
                    lines = lines[middle:]
                    continue
                self._reject(bad.number, bad.raw, str(exc.details.get("column") or ""), exc.message)
            else:
                return

    def _reject(self, number: int, raw: bytes, place: str, why: str) -> None:
        self.done.rejected += 1
        self._tell(Rejected(line=number, field=place, why=why, raw=raw.decode(errors="replace")))


class _Chunks:
    # Lines as they come, read by a thread of its own: a pipe that is silent must not keep what it gave before.

    def __init__(self, stream: Any, name: str) -> None:
        self._queue: queue.Queue[list[tuple[int, bytes]] | Exception | None] = queue.Queue(_WAITING_CHUNKS)
        self._stream = stream
        self._name = name
        self._closed = False
        # A read of a pipe cannot be called off; it may not keep the process from ending.
        threading.Thread(target=self._read, name="ingest-reader", daemon=True).start()

    def close(self) -> None:
        # A reader that waits for room finds some, and then that nobody wants more.
        self._closed = True
        with contextlib.suppress(queue.Empty):
            while True:
                self._queue.get_nowait()

    def next(self, timeout_s: float) -> list[tuple[int, bytes]] | None:
        # Nothing in time is no lines; None is the end.
        try:
            found = self._queue.get(timeout=timeout_s)
        except queue.Empty:
            return []
        if isinstance(found, Exception):
            raise found
        return found

    def _read(self) -> None:
        try:
            for lines in self._lines():
                self._queue.put(lines)
                if self._closed:
                    return
        except Exception as exc:  # noqa: BLE001  whoever asks for the next lines gets it
            self._queue.put(exc)
        else:
            self._queue.put(None)

    def _lines(self) -> Iterator[list[tuple[int, bytes]]]:
        rest, number = b"", 1
        while data := self._stream.read1(_CHUNK):
            *whole, rest = (rest + data).split(b"\n")
            if len(rest) > _LONGEST_LINE:
                raise SchemaValidationError(f"{self._name}, line {number + len(whole)}: it is longer than 16 MiB")
            if whole:
                yield [(n, line) for n, line in enumerate(whole, number) if line.strip()]
                number += len(whole)
        if rest.strip():
            yield [(number, rest)]


@contextmanager
def _opened(source: str) -> Iterator[tuple[Any, str]]:
    name = "standard input" if source == STANDARD else source
    try:
        with contextlib.ExitStack() as stack:
            if source == STANDARD:
                # Python's own object for it is locked while somebody reads, and ends with a crash if that is for ever.
                raw: Any = io.BufferedReader(io.FileIO(sys.stdin.fileno(), closefd=False))
            else:
                raw = stack.enter_context(Path(source).open("rb"))
            packed = raw.peek(2)[:2] == b"\x1f\x8b"
            yield (stack.enter_context(gzip.GzipFile(fileobj=raw)) if packed else raw), name
    except (gzip.BadGzipFile, EOFError, zlib.error) as exc:
        raise SchemaValidationError(f"{name}: compressed content is damaged or cut off ({exc})") from exc
    except (FileNotFoundError, IsADirectoryError) as exc:
        raise ConfigurationError(f"cannot read {name}: {exc.strerror}") from exc
    except OSError as exc:
        raise TemporaryUnavailable(f"cannot read {name}: {exc.strerror or exc}") from exc


def rejected_line(line: Rejected) -> bytes:
    """Return a rejected line as one JSON object with ``line, field, why, raw``, ended."""
    return orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
