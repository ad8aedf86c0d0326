"""Upserts of bars as an application writes them by hand: a bare table with the key of ours, and one statement.

No tenant, no row level security, no partitions, and what a bar was before is lost. Both ways are given Python tuples
made beforehand, and like ours leave a row alone that says what is stored already.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks import children
from benchmarks.context import Context
from benchmarks.yardsticks_venv import Tool, installed
from market_data_core.schemas import TABLE_SCHEMAS, Kind
from market_data_store.postgres import TABLES

EXECUTEMANY = "psycopg executemany, bare table"
ASYNCPG = "asyncpg COPY to staging, bare table"
TOOL = Tool(name="asyncpg", package="asyncpg", script=Path(__file__).with_name("foreign_asyncpg.py"))
_RUN_S = 900.0
_TYPES = {pa.string(): 'text COLLATE "C"', pa.float64(): "float8", pa.int64(): "bigint", pa.int32(): "integer"}
_SCHEMA = TABLE_SCHEMAS[Kind.BARS]
_SPEC = TABLES[str(Kind.BARS)]


def _names(names: Iterable[str], prefix: str = "") -> str:
    return ", ".join(f'{prefix}"{name}"' for name in names)


# In the order of our own key.
_KEY = ("ts_event", *(n for n in _SPEC.key if n != "ts_event"))
_CHANGED = tuple(n for n in _SCHEMA.names if n not in _KEY)
_COLUMNS = ", ".join(f'"{f.name}" {_TYPES[f.type]}' for f in _SCHEMA)
_TABLE = f"CREATE TABLE bare ({_COLUMNS}, UNIQUE NULLS NOT DISTINCT ({_names(_KEY)}))"
_STAGING = f"CREATE TEMP TABLE staging ({_COLUMNS}) ON COMMIT DELETE ROWS"
_INTO = f"INSERT INTO bare AS b ({_names(_SCHEMA.names)})"
_CONFLICT = (
    f"ON CONFLICT ({_names(_KEY)}) DO UPDATE SET "
    + ", ".join(f'"{n}" = excluded."{n}"' for n in _CHANGED)
    + f" WHERE ({_names(_SPEC.values, 'excluded.')}) IS DISTINCT FROM ({_names(_SPEC.values, 'b.')})"
)
_ONE_BY_ONE = f"{_INTO} VALUES ({', '.join(['%s'] * len(_SCHEMA))}) {_CONFLICT}"
_FROM_STAGING = f"{_INTO} SELECT {_names(_SCHEMA.names)} FROM staging {_CONFLICT}"
_HELD = "SELECT count(*), sum(volume) FROM bare"


def executemany(dsn: str, calls: Mapping[str, list[pa.Table]]) -> dict[str, float]:
    """Upsert the bars of each phase with psycopg, a transaction for each call; return seconds by phase.

    Raises:
        AssertionError: What is stored then is not what was handed in.
    """
    taken = {}
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(_TABLE)
        for phase, tables in calls.items():
            given = [list(zip(*(c.to_pylist() for c in t.columns), strict=True)) for t in tables]
            started = time.perf_counter()
            for rows in given:
                with connection.transaction(), connection.cursor() as cursor:
                    cursor.executemany(_ONE_BY_ONE, rows)
            taken[phase] = time.perf_counter() - started
            found = connection.execute(_HELD).fetchone()
            _check(EXECUTEMANY, tables, *(found or (0, 0.0)))
    return taken


def asyncpg_python(ctx: Context) -> tuple[str | None, str]:
    """Return the interpreter that has asyncpg, and why there is none; one of them is empty."""
    if not ctx.yardsticks:
        return None, "it is installed, in a venv of its own, with --yardsticks only"
    try:
        return str(installed(ctx.cache / "yardsticks-venv", TOOL)), ""
    except RuntimeError as exc:
        return None, str(exc)


def asyncpg(python: str, work: Path, dsn: str, calls: Mapping[str, list[pa.Table]]) -> dict[str, float]:
    """Upsert the bars of each phase with asyncpg, in a process of its own; return seconds by phase.

    Raises:
        AssertionError: What is stored then is not what was handed in.
        RuntimeError: The process failed; says why.
    """
    files = {phase: work / f"upserts-{phase}.parquet" for phase in calls}
    for phase, tables in calls.items():
        # A row group is a call.
        with pq.ParquetWriter(files[phase], _SCHEMA) as writer:
            for table in tables:
                writer.write_table(table, row_group_size=table.num_rows)
    order = {
        "dsn": dsn,
        "prepare": [_TABLE, _STAGING],
        "staging": "staging",
        "upsert": _FROM_STAGING,
        "held": _HELD,
        "files": {phase: str(path) for phase, path in files.items()},
    }
    # Our own packages are none of its business.
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    said = children.run([python, str(TOOL.script), json.dumps(order)], timeout_s=_RUN_S, env=env)
    for phase, tables in calls.items():
        _check(ASYNCPG, tables, *said["held"][phase])
    return {phase: float(seconds) for phase, seconds in said["seconds"].items()}


def _check(name: str, tables: list[pa.Table], rows: int, volume: float) -> None:
    wanted = (sum(t.num_rows for t in tables), sum(pc.sum(t.column("volume")).as_py() for t in tables))
    if (rows, volume) != wanted:
        raise AssertionError(f"{name} stored bars and volume {(rows, volume)}; handed in {wanted}")
