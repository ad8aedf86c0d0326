"""Upserts by asyncpg, in its own venv: ``python foreign_asyncpg.py ORDER``, which is JSON.

Each row group of a file is one transaction: copied into a staging table, and from there into the table. Prints one JSON
line; the seconds are from the first tuple handed over to the last commit. Imports nothing but what is in that venv.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import asyncpg
import pyarrow.parquet as pq


async def main(order: dict[str, Any]) -> None:
    """Do what is ordered: ``prepare`` once, then each of ``files`` into ``staging`` and on by ``upsert``."""
    seconds, held = {}, {}
    connection = await asyncpg.connect(order["dsn"])
    try:
        for statement in order["prepare"]:
            await connection.execute(statement)
        for phase, path in order["files"].items():
            file = pq.ParquetFile(path)
            groups = [file.read_row_group(at) for at in range(file.num_row_groups)]
            names = file.schema_arrow.names
            given = [list(zip(*(c.to_pylist() for c in group.columns), strict=True)) for group in groups]
            started = time.perf_counter()
            for rows in given:
                async with connection.transaction():
                    await connection.copy_records_to_table(order["staging"], records=rows, columns=names)
                    await connection.execute(order["upsert"])
            seconds[phase] = time.perf_counter() - started
            held[phase] = list(await connection.fetchrow(order["held"]))
    finally:
        await connection.close()
    print(json.dumps({"seconds": seconds, "held": held}))


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
