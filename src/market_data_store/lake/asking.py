"""What is asked of a table, in the steps of answering it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from market_data_core.errors import ConfigurationError
from market_data_store.backend import Wanted
from market_data_store.lake.declarations import TableSpec
from market_data_store.lake.reads import VERSION_ORDER, Selection, all_of, newest


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Which rows are read, what becomes of them, and what is shown.

    A version that is superseded must not answer for the newer one, so only columns of the key decide before the
    newest is known.

    Attributes:
        spec: The table.
        read: What may be left out at once.
        after: What holds of the rows that count; None if nothing more is asked.
        newest: Whether only the newest version of a key counts.
        shown: Columns of the answer.
        columns: Columns needed on the way to it.
        first_ns, last_ns: Between which times its rows lie, UTC nanoseconds, both inclusive.
    """

    spec: TableSpec
    read: Selection
    after: ds.Expression | None
    newest: bool
    shown: tuple[str, ...]
    columns: tuple[str, ...]
    first_ns: int
    last_ns: int

    @property
    def schema(self) -> pa.Schema:
        """Columns of the answer."""
        return pa.schema([self.spec.rows_schema.field(n) for n in self.shown])

    def settle(self, rows: pa.Table) -> pa.Table:
        """Return of the read rows those that count and were asked for; all versions of their keys are among `rows`.

        Ascending by the key where versions were compared, else in the same order.
        """
        if self.newest:
            rows = newest(rows, self.spec.key)
        return rows if self.after is None else rows.filter(self.after)


def ask(spec: TableSpec, wanted: Wanted, columns: Sequence[str] | None = None) -> Question:
    """Return how a table answers.

    Args:
        spec: The table.
        wanted: Which rows.
        columns: Which columns, all if None.

    Raises:
        ConfigurationError: A column is not declared, or `wanted` compares one that is not text.
    """
    shown = tuple(spec.rows_schema.names if columns is None else columns)
    _check(spec, [*shown, *wanted.equal])
    text = {f.name for f in spec.rows_schema if pa.types.is_string(f.type)}
    if other := set(wanted.equal) - text:
        raise ConfigurationError(f"column {', '.join(sorted(other))} of table {spec.name} is not text")
    compared = bool(spec.key) and not wanted.versions
    early, late = _divide(wanted, spec.key if compared else spec.rows_schema.names)
    if spec.key and wanted.as_of_ns is not None:
        # A version from outside that does not say when it became known did so when we received it.
        known: Any = pc.coalesce(pc.field("ts_known"), pc.field("ts_recv")) <= wanted.as_of_ns
        early = replace(early, where=known if early.where is None else early.where & known)
    # What the reading compares, Arrow reads without being told.
    needed = {*shown, "ts_event", "seq"}
    if spec.key:
        needed |= {*spec.key, *VERSION_ORDER}
    if late is not None:
        needed |= {"ts_event", "symbol", "vendor", *wanted.equal}
    return Question(
        spec=spec,
        read=early,
        after=late,
        newest=compared,
        shown=shown,
        columns=tuple(n for n in spec.rows_schema.names if n in needed),
        first_ns=wanted.start_ns,
        last_ns=Selection(end_ns=wanted.end_ns).last_ns,
    )


def _divide(wanted: Wanted, early_columns: Sequence[str]) -> tuple[Selection, ds.Expression | None]:
    # Into what the given columns can tell, and the rest.
    parts: list[dict[str, Any]] = [{}, {}]
    texts: list[list[Any]] = [[], []]
    for column, option, value in (
        ("ts_event", "start_ns", wanted.start_ns),
        ("ts_event", "end_ns", wanted.end_ns),
        ("symbol", "symbols", wanted.symbols),
        ("vendor", "vendor", wanted.vendor),
    ):
        parts[column not in early_columns][option] = value
    for column, value in wanted.equal.items():
        texts[column not in early_columns].append(pc.field(column) == value)
    early, late = (Selection(**p, where=all_of(t)) for p, t in zip(parts, texts, strict=True))
    return early, late.expression()


def _check(spec: TableSpec, names: Sequence[str]) -> None:
    unknown = sorted(set(names) - set(spec.rows_schema.names))
    if unknown:
        raise ConfigurationError(f"table {spec.name} has no column {', '.join(unknown)}")
