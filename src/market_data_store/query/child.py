"""The process that runs one query: ``python -m market_data_store.query.child``.

The request is one JSON object on stdin. Rows go to stdout as an Arrow IPC stream; the last line of stderr is a JSON
object that says how it went: ``{"truncated": ...}`` or ``{"error": {"code", "message", "details"}}``.

Two guards stand behind each other: the text is parsed, checked and written anew (`parse`), and before the engine starts
a thread the process is confined by the kernel to reading the tenant's own folder (`confine`). The engine itself has
neither: left alone it reads and writes any file (``CREATE EXTERNAL TABLE``, ``COPY TO``).
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.compute  # casting loads it, and once confined nothing can be loaded
from deltalake import DeltaTable, QueryBuilder
from deltalake.exceptions import DeltaError

from market_data_core.addresses import is_object_store
from market_data_core.errors import MarketDataError, TemporaryUnavailable, ValidationError
from market_data_core.schemas import BAR_KEY
from market_data_store.places import ObjectPath, ObjectStore, Place, storage_options
from market_data_store.query import confine
from market_data_store.query.limits import STALE, QueryLimits, limit_reached
from market_data_store.query.parse import Statement, parse_statement

_TABLE_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_BARS, _REVISIONS = "bars", "bars_revisions"
_KEY: Final = ", ".join(f'"{c}"' for c in BAR_KEY)
# `date` follows from ts_event; with it in the key a condition on it reaches the scan, as those on the key do.
_BARS_VIEW: Final = (
    f"CREATE VIEW {_BARS} AS SELECT * EXCEPT (newest) FROM (SELECT *, row_number() OVER (PARTITION BY {_KEY}, "  # noqa: S608  constants alone
    f'"date" ORDER BY revision DESC, seq DESC) AS newest FROM {_REVISIONS}) AS r WHERE newest = 1'
)
# A folder that cannot be: what does not fit in memory is refused, never written to disk.
_NO_SPILL: Final = "/dev/null/no-spilling"
# How the engine's errors name what they mean; it has no codes.
_OUT_OF_MEMORY: Final = (
    _NO_SPILL,
    "Resources exhausted",
    "memory allocation",
    "Cannot allocate memory",
    "malloc of size",
)
_FILE_GONE: Final = ("No such file", "not found: ", "Object at location")


class _WithoutPandas(MetaPathFinder):
    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        del path, target
        if fullname == "pandas":
            raise ModuleNotFoundError("queries are answered without pandas", name=fullname)


def main() -> None:
    """Run the query that stdin asks for."""
    logging.disable()  # the parser logs what it falls back on; stderr is for our one line
    request = json.load(sys.stdin)
    confine.die_with(request["parent_pid"])
    limits = QueryLimits(**request["limits"])
    folder = request.get("folder")
    try:
        if folder is None:
            truncated = run_on_server(request["dsn"], request["tenant"], request["sql"], limits=limits)
        elif is_object_store(folder):
            truncated = run(ObjectPath(ObjectStore(folder)), request["sql"], limits=limits)
        else:
            truncated = run(Path(folder), request["sql"], limits=limits)
        outcome: dict[str, Any] = {"truncated": truncated}
    except MarketDataError as exc:
        message = exc.message
        if folder is not None:
            message = message.replace(folder, "").replace(folder.lstrip("/"), "")
        message = message[:2000]
        outcome = {"error": {"code": exc.code, "message": message, "details": exc.details}}
    sys.stderr.write(f"\n{json.dumps(outcome)}\n")
    sys.stderr.flush()
    # Leave without unwinding: the engine may still be at work on rows that nobody will read.
    os._exit(0)


def run(folder: Place, sql: str, *, limits: QueryLimits) -> bool:
    """Confine this process, run a query and write its rows to stdout. Once per process.

    Args:
        folder: The tenant's folder; each folder in it with a Delta log is a table.
        sql: The user's text.
        limits: See there.

    Returns:
        Whether rows were left out.
    """
    _limit(limits)
    if not isinstance(folder, Path):
        # Before anything is listed: the engine's threads come with its first request.
        _without_pandas()
        confine.read_only_below(*_for_requests(), ports=sorted(_ports()))
    tables = _list_tables(folder)
    names = sorted({*tables, _BARS} if _REVISIONS in tables else tables)
    statement = parse_statement(sql, tables=names)
    if isinstance(folder, Path):
        _without_pandas()
        confine.read_only_below(folder)
    if statement.kind == "tables":
        return _write(pa.table({"table": pa.array(names, pa.string())}).to_reader(), limits=limits)
    try:
        return _write(_execute(statement, tables, limits=limits), limits=limits)
    except (DeltaError, pa.ArrowException, OSError, MemoryError) as exc:
        raise _translated(exc, limits) from exc


def _without_pandas() -> None:
    # With its first array Arrow looks for pandas, which nothing here needs, and once confined cannot look any more.
    sys.meta_path.insert(0, _WithoutPandas())
    pa.array([""])


# What a request to an object store needs: how names are looked up, whom to believe, and credentials kept in files.
def _for_requests() -> list[Path]:
    names = ("/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/gai.conf")
    trust = ("/etc/ssl", "/etc/pki", "/usr/share/ca-certificates", "/usr/local/share/ca-certificates", "/usr/lib/ssl")
    own = [os.environ[n] for n in ("SSL_CERT_FILE", "SSL_CERT_DIR", "AWS_WEB_IDENTITY_TOKEN_FILE") if n in os.environ]
    return [p for p in map(Path, (*names, *trust, *own, str(Path.home() / ".aws"))) if p.exists()]


def _ports() -> set[int]:
    # Without an endpoint it is Amazon's, whose machines also ask for credentials without TLS.
    ports = {443, 80}
    if port := urlsplit(os.environ.get("AWS_ENDPOINT_URL", "")).port:
        ports.add(port)
    return ports


def run_on_server(dsn: str, tenant: str, sql: str, *, limits: QueryLimits) -> bool:
    """Bound this process, have a PostgreSQL server run a query and write its rows to stdout. Once per process.

    Returns:
        Whether rows were left out.
    """
    from market_data_store.query.server import ask  # noqa: PLC0415  the driver is for those who have a server

    _limit(limits)
    try:
        return _write(ask(dsn, tenant, sql, limits=limits).to_reader(), limits=limits)
    except MemoryError as exc:
        raise _translated(exc, limits) from exc


def _limit(limits: QueryLimits) -> None:
    cpus = os.cpu_count() or 1
    confine.limit_resources(memory_bytes=limits.memory_bytes, cpu_s=int(limits.timeout_s * cpus) + 1)


def _list_tables(folder: Place) -> dict[str, Place]:
    try:
        found = [p for p in folder.iterdir() if _TABLE_NAME.fullmatch(p.name) and (p / "_delta_log").is_dir()]
    except FileNotFoundError:
        raise ValidationError("there are no tables yet", "query_refused") from None
    except OSError as exc:
        raise TemporaryUnavailable(f"the lake cannot be read: {exc.strerror}") from exc
    return {_REVISIONS if p.name == _BARS else p.name: p for p in sorted(found, key=str)}


def _execute(statement: Statement, tables: dict[str, Place], *, limits: QueryLimits) -> pa.RecordBatchReader:
    engine = QueryBuilder()
    os.environ["TMPDIR"] = _NO_SPILL
    engine.execute(f"SET datafusion.runtime.memory_limit = '{max(1, limits.memory_bytes // 2 // 1024)}K'")
    for name in {_REVISIONS if t == _BARS else t for t in statement.tables}:
        engine.register(name, DeltaTable(str(tables[name]), storage_options=storage_options(tables[name])))
    if _BARS in statement.tables:
        engine.execute(_BARS_VIEW)
    return pa.RecordBatchReader.from_stream(engine.execute(statement.sql))


def _write(reader: pa.RecordBatchReader, *, limits: QueryLimits) -> bool:
    schema = pa.schema([f.with_type(_plain(f.type)) for f in reader.schema])
    rows = size_bytes = 0
    # Not closed: a half-written stream must not get the mark of its end when an error comes between.
    writer = pa.ipc.new_stream(sys.stdout.buffer, schema)
    for batch in _batches(reader, schema):
        taken = batch.slice(0, limits.max_rows - rows)
        room_bytes = limits.max_result_bytes - size_bytes
        while taken.num_rows and taken.nbytes > room_bytes:
            taken = taken.slice(0, taken.num_rows // 2)
        if taken.num_rows:
            writer.write_batch(taken)
        elif rows == 0 and limits.max_rows > 0:
            raise limit_reached("max_result_bytes", limits.max_result_bytes, "a single row is larger than the result")
        rows += taken.num_rows
        size_bytes += taken.nbytes
        if taken.num_rows < batch.num_rows:
            break
    else:
        writer.close()
        sys.stdout.flush()
        return False
    writer.close()
    sys.stdout.flush()
    return True


def _batches(reader: pa.RecordBatchReader, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for batch in reader:
        if batch.num_rows:
            columns = [c if c.type == f.type else c.cast(f.type) for c, f in zip(batch.columns, schema, strict=True)]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)


# The engine's string views keep whole buffers alive however small the slice, and few tools read them.
def _plain(type_: pa.DataType) -> pa.DataType:
    if pa.types.is_string_view(type_):
        return pa.string()
    if pa.types.is_binary_view(type_):
        return pa.binary()
    if pa.types.is_dictionary(type_):
        return _plain(type_.value_type)
    if pa.types.is_list(type_):
        return pa.list_(type_.value_field.with_type(_plain(type_.value_type)))
    if pa.types.is_struct(type_):
        return pa.struct([f.with_type(_plain(f.type)) for f in type_])
    return type_


def _translated(exc: Exception, limits: QueryLimits) -> MarketDataError:
    text = str(exc).strip()
    if isinstance(exc, MemoryError) or any(mark in text for mark in _OUT_OF_MEMORY):
        return limit_reached("memory_bytes", limits.memory_bytes, "the query needs more memory than it may have")
    if any(mark in text for mark in _FILE_GONE) and "planning" not in text:
        return TemporaryUnavailable("files of the lake went away under the query", STALE)
    if isinstance(exc, OSError):
        return TemporaryUnavailable(f"the lake cannot be read: {text}")
    first = text.removeprefix("External error: ").split("\n\n")[0].split("\nThis issue was")[0]
    return ValidationError(f"the query failed: {first}", "query_failed")


if __name__ == "__main__":
    main()
