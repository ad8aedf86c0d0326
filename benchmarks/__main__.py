"""The command line: ``python -m benchmarks [row ...] [--quick] [--out bench-results] [--profile] [--yardsticks]``."""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
import traceback
from pathlib import Path

from rich.console import Console

from benchmarks import (
    amds,
    bars_csv,
    bars_parquet,
    dag,
    footprint,
    health,
    lake_bars,
    live,
    many,
    sockets,
    stored,
    upserts,
)
from benchmarks.context import Context, default_cache, find_recordings, machine
from benchmarks.results import Result, show, write

_FAILED = "failed"
ROWS = {
    m.ROW: m
    for m in (bars_parquet, bars_csv, dag, stored, upserts, live, many, health, sockets, lake_bars, footprint, amds)
}


def main(arguments: list[str] | None = None) -> int:
    """Run rows, print them and write them down; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measures the platform.")
    described = "; ".join(f"{name}: {(m.__doc__ or '').partition('.')[0]}" for name, m in ROWS.items())
    parser.add_argument("rows", nargs="*", metavar="row", help=f"all if none is named. {described}")
    parser.add_argument("--quick", action="store_true", help="a smoke run in seconds; its figures mean nothing")
    parser.add_argument("--rounds", type=int, help="interleaved rounds")
    parser.add_argument("--out", type=Path, default=Path("bench-results"), help="folder of the results")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="folder for tables that are dear to build")
    parser.add_argument("--profile", action="store_true", help="also print where time goes, with py-spy")
    parser.add_argument(
        "--yardsticks", action="store_true", help="also run NautilusTrader, Bytewax and asyncpg, in their own venv"
    )
    given = parser.parse_args(arguments)
    if unknown := [row for row in given.rows if row not in ROWS]:
        parser.error(f"no row {', '.join(unknown)}; there are: {', '.join(ROWS)}")
    console = Console()
    facts = machine()
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as work:
        fields = {"work": Path(work), "cache": given.cache, "recordings": find_recordings()}
        fields |= {"profile": given.profile, "yardsticks": given.yardsticks}
        if given.rounds:
            fields["rounds"] = given.rounds
        ctx = Context.quick(**fields) if given.quick else Context(**fields)
        for name in given.rows or ROWS:
            with console.status(f"{name} ..."):
                results += _row(name, ctx)
    show(results, console)
    name = f"{time.strftime('%Y-%m-%d')}-{platform.node()}" + ("-quick" if given.quick else "")
    for path in write(results, facts, given.out, name):
        console.print(f"written: {path}")
    return 1 if any(r.what == _FAILED for r in results) else 0


def _row(name: str, ctx: Context) -> list[Result]:
    try:
        return list(ROWS[name].run(ctx))
    except Exception as exc:  # noqa: BLE001  told as the row's outcome; the other rows still have something to say
        traceback.print_exc()
        return [Result(row=name, what=_FAILED, skipped=f"{type(exc).__name__}: {exc}")]


if __name__ == "__main__":
    sys.exit(main())
