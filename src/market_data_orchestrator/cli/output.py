"""How the command speaks: tables for people, JSON for machines, errors that say what to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table

from mds_client.cli import output as shared
from mds_client.cli.output import ERR, FAILURE, OUT, WRONG_USE, clean, print_json, say, text

__all__ = [
    "ERR",
    "FAILURE",
    "OUT",
    "WRONG_USE",
    "clean",
    "print_facts",
    "print_json",
    "print_table",
    "say",
    "size",
    "text",
]


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows with their columns, below a title if it is not empty; numbers to the right."""
    shared.print_table(columns, rows, title=title)


def print_facts(facts: Mapping[str, Any]) -> None:
    """Print names and values below each other."""
    table = Table(show_header=False, show_edge=False, box=None, pad_edge=False)
    for name, value in facts.items():
        table.add_row(f"[bold]{name}[/bold]", text(value))
    OUT.print(table)


def size(value: int) -> str:
    """Return a number of bytes for people."""
    amount = float(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"
