"""Runs queries in child processes, one each, and ends them at their limits."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from market_data_core import priority
from market_data_core.addresses import is_object_store, is_postgres, object_place
from market_data_core.errors import MarketDataError, TemporaryUnavailable, ValidationError
from market_data_store.query.limits import MIB, STALE, QueryLimits, QueryResult, limit_reached

_TENANT: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PANIC: Final = re.compile(r"panicked at [^\n]*\n([^\n]{1,200})")
_NICE: Final = 10
_CHUNK_BYTES: Final = 256 * 1024
_STDERR_BYTES: Final = 64 * 1024
# The child counts rows' bytes; what the stream adds (schema, padding, one header per batch) comes on top.
_FRAMING_BYTES: Final = 4 * MIB


def place_of(address: str) -> Path | str:
    """Return what `run_query` asks for a store's address: a folder, or the URL of a server or object store as it is."""
    if is_postgres(address) or is_object_store(address):
        return address
    return Path(address.removeprefix("file://"))


def run_query(root: Path | str, tenant: str, sql: str, *, limits: QueryLimits | None = None) -> QueryResult:
    """Run one SELECT over a tenant's tables and wait for its rows.

    May be called from any thread that runs no event loop; in one that does, use `QueryRunner`.

    Args:
        root: The lake's folder, which holds a folder per tenant; a text is the URL of a PostgreSQL server or of an
            object store that holds the lake.
        tenant: Whose tables.
        sql: One SELECT (or SHOW TABLES, DESCRIBE); ``bars`` is the newest revision of every bar, ``bars_revisions``
            all of them. Times are int64 UTC nanoseconds; ``to_timestamp_nanos(ts_event)`` renders them.
        limits: None for the defaults.

    Raises:
        ValidationError: Code ``query_refused`` (may not be asked; `details` says where), ``query_failed`` (the engine
            cannot do it) or ``query_limit`` (`details` names the limit).
        TemporaryUnavailable: The lake or the child is away.
    """
    return asyncio.run(QueryRunner(root).run(tenant, sql, limits=limits))


class QueryRunner:
    """Runs queries over one store from an event loop, a few at a time.

    Args:
        root: The lake's folder, which holds a folder per tenant; a text is the URL of a PostgreSQL server.
        limits: What every query may take unless its call says otherwise.
        concurrency: How many run at once.
        max_waiting: How many may wait for their turn; one more is turned away.
    """

    def __init__(
        self, root: Path | str, *, limits: QueryLimits | None = None, concurrency: int = 2, max_waiting: int = 16
    ) -> None:
        self._root = root
        self._limits = limits or QueryLimits()
        self._slots = asyncio.Semaphore(concurrency)
        self._max_waiting = max_waiting
        self._waiting = 0

    async def run(self, tenant: str, sql: str, *, limits: QueryLimits | None = None) -> QueryResult:
        """Run one query; as `run_query`. Cancelling kills the child.

        Raises:
            TemporaryUnavailable: As `run_query`, and with code ``query_busy`` when too many wait already.
        """
        limits = limits or self._limits
        request = _request(self._root, tenant, sql, limits)
        async with self._turn():
            started_s = time.monotonic()
            try:
                async with asyncio.timeout(limits.timeout_s):
                    table, truncated = await _attempts(request, limits, _environment(self._root))
            except TimeoutError as exc:
                raise limit_reached("timeout_s", limits.timeout_s, "the query took too long and was ended") from exc
            return QueryResult(table=table, truncated=truncated, elapsed_s=time.monotonic() - started_s)

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        if self._slots.locked() and self._waiting >= self._max_waiting:
            busy = TemporaryUnavailable(f"{self._waiting} queries are waiting already", "query_busy")
            busy.retry_after_sec = 1.0
            raise busy
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._slots.release()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ended:
    code: int
    out: bytes
    err: bytes


# Only what costs nothing is checked here. Parsing is the child's: it can take time exponential in the text.
def _request(root: Path | str, tenant: str, sql: str, limits: QueryLimits) -> bytes:
    if not _TENANT.fullmatch(tenant):
        raise ValidationError(f"{tenant[:100]!r} is no name of a tenant", "query_refused")
    size_bytes = len(sql.encode("utf-8", "surrogatepass"))
    if size_bytes > limits.max_sql_bytes:
        raise limit_reached("max_sql_bytes", limits.max_sql_bytes, f"the query has {size_bytes} bytes")
    if "\0" in sql or any("\ud800" <= c <= "\udfff" for c in sql):
        raise ValidationError("the query holds a character that no text has", "query_refused")
    if isinstance(root, Path):
        place = {"folder": str((root / tenant).resolve())}
    elif is_object_store(root):
        place = {"folder": object_place(root, tenant)}
    else:
        place = {"dsn": root, "tenant": tenant}
    values = {**place, "sql": sql, "limits": asdict(limits), "parent_pid": os.getpid()}
    return json.dumps(values).encode()


# Compaction and vacuum may take files away between the planning of a query and its reading.
async def _attempts(request: bytes, limits: QueryLimits, environment: dict[str, str]) -> tuple[pa.Table, bool]:
    try:
        return _read(await _child(request, limits, environment), limits)
    except TemporaryUnavailable as exc:
        if exc.code != STALE:
            raise
    return _read(await _child(request, limits, environment), limits)


async def _child(request: bytes, limits: QueryLimits, environment: dict[str, str]) -> _Ended:
    with tempfile.TemporaryDirectory(prefix="query-") as empty:
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-P", "-s", "-B", "-m", "market_data_store.query.child"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                cwd=empty,
                env=environment,
                start_new_session=True,
            )
        except OSError as exc:
            raise TemporaryUnavailable(f"cannot start a process for the query: {exc}") from exc
        # From its first moment: what it loads takes as much of the processor as a small query. Not the lowest: beside
        # other work that takes all there is, a query must come to an end within its time.
        priority.lower(_NICE, process.pid)
        try:
            return await _exchange(process, request, limits)
        finally:
            await _end(process)


async def _exchange(process: asyncio.subprocess.Process, request: bytes, limits: QueryLimits) -> _Ended:
    stdin, stdout, stderr = process.stdin, process.stdout, process.stderr
    assert stdin is not None and stdout is not None and stderr is not None  # noqa: S101, PT018  asked for above
    # Both are read from the start, lest the child wait for room to say why it does not take its request.
    async with asyncio.TaskGroup() as tasks:
        out = tasks.create_task(_rows(process, stdout, limits.max_result_bytes + _FRAMING_BYTES), name="query rows")
        err = tasks.create_task(_tail(stderr), name="query outcome")
        with contextlib.suppress(ConnectionError):  # the child died; how, its end says
            stdin.write(request)
            await stdin.drain()
        stdin.close()
    rows = out.result()
    if rows is None:
        raise limit_reached("max_result_bytes", limits.max_result_bytes, "the result is too large")
    return _Ended(code=await process.wait(), out=rows, err=err.result())


# The child cuts its result itself; this holds should it not. None: there was more, and the child was killed.
async def _rows(process: asyncio.subprocess.Process, stream: asyncio.StreamReader, max_bytes: int) -> bytes | None:
    rows = bytearray()
    while chunk := await stream.read(_CHUNK_BYTES):
        rows += chunk
        if len(rows) > max_bytes:
            _kill(process)
            return None
    return bytes(rows)


async def _tail(stream: asyncio.StreamReader) -> bytes:
    tail = bytearray()
    while chunk := await stream.read(_CHUNK_BYTES):
        tail += chunk
        del tail[:-_STDERR_BYTES]
    return bytes(tail)


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        _kill(process)
    # Read to the end: a pipe with something left in it is never closed, and waiting would not return.
    for stream in (process.stdout, process.stderr):
        while stream is not None and await stream.read(_CHUNK_BYTES):
            pass
    await process.wait()


# Nothing of ours but where the code is: no keys, no addresses. Few arenas, and Arrow's own allocator set aside, which
# reserves address space by the GiB: the limit on memory is one on addresses. Who asks a server or an object store also
# gets the settings of its driver, by which the service finds it.
def _environment(root: Path | str) -> dict[str, str]:
    code = Path(__file__).parents[2]
    values = {
        "PYTHONPATH": os.pathsep.join([str(code), *(p for p in sys.path if Path(p).is_absolute() and p != str(code))]),
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "MALLOC_ARENA_MAX": "2",
        "ARROW_DEFAULT_MEMORY_POOL": "system",
        "OPENBLAS_NUM_THREADS": "1",
    }
    if isinstance(root, str):
        theirs = ("PG",) if is_postgres(root) else ("AWS_", "SSL_CERT_")
        values |= {k: v for k, v in os.environ.items() if k.startswith(theirs) or k == "HOME"}
    if sys.platform == "win32":
        values["SYSTEMROOT"] = os.environ.get("SYSTEMROOT", "")
    return values


def _read(ended: _Ended, limits: QueryLimits) -> tuple[pa.Table, bool]:
    outcome = _outcome(ended.err)
    if outcome is None:
        raise _died(ended, limits)
    if "error" in outcome:
        error = outcome["error"]
        cls: type[MarketDataError] = ValidationError
        if error["code"] in {STALE, TemporaryUnavailable.__name__}:
            cls = TemporaryUnavailable
        raise cls(error["message"], error["code"], error["details"])
    try:
        table = pa.ipc.open_stream(pa.py_buffer(ended.out)).read_all()
    except pa.ArrowException as exc:
        raise TemporaryUnavailable(f"the query's rows cannot be read: {exc}") from exc
    return table, bool(outcome["truncated"])


def _outcome(err: bytes) -> dict[str, Any] | None:
    last = err.rstrip(b"\n").rpartition(b"\n")[2]
    try:
        value = json.loads(last)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _died(ended: _Ended, limits: QueryLimits) -> MarketDataError:
    name = signal.Signals(-ended.code).name if ended.code < 0 else ""
    text = ended.err.decode(errors="replace")
    if "memory allocation" in text or "MemoryError" in text or "WouldBlock" in text or name == "SIGKILL":
        what = "the query needs more memory than it may have"
        return limit_reached("memory_bytes", limits.memory_bytes, what)
    if name == "SIGXCPU":
        return limit_reached("timeout_s", limits.timeout_s, "the query took too much processor time")
    panic = _PANIC.search(text)
    if name or panic:
        why = panic[1] if panic else name
        what = f"the engine broke off on this query ({why}); a smaller or less nested one may work"
        return ValidationError(what, "query_failed")
    last = text.strip().rpartition("\n")[2][:500]
    return TemporaryUnavailable(f"the process for the query ended with code {ended.code}: {last}")
