"""How the command speaks: tables for people, JSON for machines, progress on the side."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Event
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:  # who only prints need not load how tables are copied
    from mds_client.transfer.copying import CopyProgress

OUT: Final = Console()
ERR: Final = Console(stderr=True)

WRONG_USE: Final = 2
FAILURE: Final = 1


def print_json(value: Any, console: Console = OUT) -> None:
    """Print one JSON value and nothing else; numbers JSON does not have (NaN, infinity) are null."""
    text = json.dumps(_finite(value), default=str, allow_nan=False)
    console.print(text, soft_wrap=True, highlight=False, markup=False, emoji=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    return [_finite(v) for v in value] if isinstance(value, list | tuple) else value


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str = "") -> None:
    """Print rows with their columns, below a title if there is one; numbers to the right."""
    rows = [list(row) for row in rows]
    table = Table(title=title or None, title_justify="left", header_style="bold", show_edge=False, pad_edge=False)
    for place, column in enumerate(columns):
        numeric = any(isinstance(row[place], int | float) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(text(value) for value in row))
    OUT.print(table)


def say(words: str, console: Console = OUT) -> None:
    """Print a sentence as it is."""
    console.print(clean(words), soft_wrap=True, highlight=False, markup=False, emoji=False)


def text(value: Any) -> str:
    """Return a value as it is shown in a table."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.10g}"
    return clean(str(value)).replace("[", r"\[")


def clean(words: str) -> str:
    """Return a text without what a terminal would act on; stored data may hold anything."""
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in words)


@contextmanager
def progress(word: str, *, quiet: bool, stop: Event | None = None) -> Iterator[CopyProgress]:
    """Show on standard error, where somebody looks, how far something is; gives what to tell it to.

    Whoever tells is interrupted once `stop` is set.
    """
    shown = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[rows]:,} rows"),
        TimeElapsedColumn(),
        console=ERR,
        transient=True,
        disable=quiet or not ERR.is_terminal,
    )
    with shown:
        task = shown.add_task(word, total=None, rows=0)

        def tell(what: str, done: int, total: int | None) -> None:
            if stop is not None and stop.is_set():
                raise KeyboardInterrupt
            shown.update(task, description=f"{word} {what}".strip(), completed=done, total=total, rows=done)

        yield tell
