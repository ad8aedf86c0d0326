"""How the command speaks: tables for people, JSON for machines, errors that say what to do."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

OUT = Console()
ERR = Console(stderr=True)

WRONG_USE = 2
FAILURE = 1


def print_json(value: Any) -> None:
    """Print one JSON value and nothing else; numbers JSON does not have (NaN, infinity) are null."""
    text = json.dumps(_finite(value), default=str, allow_nan=False)
    OUT.print(text, soft_wrap=True, highlight=False, markup=False, emoji=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, list | tuple) else value


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows with their columns; numbers to the right."""
    rows = [list(row) for row in rows]
    table = Table(title=title or None, title_justify="left", header_style="bold", show_edge=False, pad_edge=False)
    for place, column in enumerate(columns):
        numeric = any(isinstance(row[place], int | float) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(text(value) for value in row))
    OUT.print(table)


def text(value: Any) -> str:
    """Return a value as it is shown in a table."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.6g}" if abs(value) < 1e6 else f"{value:,.2f}"
    return str(value).replace("[", r"\[")


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
