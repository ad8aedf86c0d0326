"""Aggregates of expressions, kept by pane and put together by window.

State is a set of columns per aggregate, one row per pane. Whatever order events come in and however they are split into
batches, the columns end the same.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from market_data_core.batch import EventBatch
from market_data_core.errors import ConfigurationError
from market_data_core.schemas import Kind
from market_data_pipeline.operators import binary_sums
from market_data_pipeline.operators.expressions import Bound, Expression, ValueType
from market_data_pipeline.operators.panes import Due, sums
from market_data_pipeline.operators.streams import Ints, segment_starts

Floats = npt.NDArray[np.float64]
Columns = dict[str, npt.NDArray[Any]]

FUNCTIONS: Final = ("sum", "min", "max", "first", "last", "mean", "count")


class Aggregate:
    """One aggregate of one expression, over the rows where that is not null; ``count()`` is over all rows.

    Args:
        text: A function of `FUNCTIONS` and in parentheses an expression that gives a number: ``sum(price * size)``.
        where: What it is for, to begin messages with.

    Raises:
        ConfigurationError: It is something else.
    """

    def __init__(self, text: str, *, where: str) -> None:
        function, inner = _split(text, where)
        self._where = f"{where} {text!r}"
        self._function = function
        self._expression = None if inner is None else Expression(inner, where=where)
        self._bound: Bound | None = None

    @property
    def names(self) -> frozenset[str]:
        """The columns that it reads."""
        return frozenset() if self._expression is None else self._expression.names

    def bind(self, kind: Kind) -> None:
        """Settle the kind of the events.

        Raises:
            ConfigurationError: The expression does not fit it, or gives no number.
        """
        if self._expression is not None:
            self._bound = self._expression.bind(kind)
            if self._bound.type not in (ValueType.WHOLE, ValueType.FLOAT):
                raise ConfigurationError(f"{self._where}: a number is needed, this is {self._bound.type}")

    def values(self, batch: EventBatch) -> Floats:
        """Return what is aggregated, one per row, NaN where null."""
        return np.ones(len(batch)) if self._bound is None else self._bound.floats(batch)

    def of(self, values: Floats, ts: Ints, seq: Ints, group: Ints, groups: int) -> Columns:
        """Return the columns of some events.

        Args:
            values: As `values` gives them, in the order of the other arguments: by group, then ``(ts_event, seq)``.
            ts: Their `ts_event`.
            seq: Their `seq`.
            group: The number of each event's pane, ascending.
            groups: How many panes there are.
        """
        present = ~np.isnan(values)
        values, ts, seq, group = values[present], ts[present], seq[present], group[present]
        n = np.bincount(group, minlength=groups).astype(np.int64)
        if self._function == "count":
            return {"n": n}
        if self._function in ("sum", "mean"):
            return {"n": n, "total": binary_sums.totals(values, group, groups)}
        at = segment_starts(group)
        value = np.full(groups, np.nan)
        if self._function in ("min", "max"):
            if len(at):
                value[group[at]] = self._extreme().reduceat(values, at)
            return {"value": value}
        if self._function == "last" and len(at):
            at = np.append(at[1:], len(group)) - 1
        when, place = np.zeros(groups, np.int64), np.zeros(groups, np.int64)
        value[group[at]], when[group[at]], place[group[at]] = values[at], ts[at], seq[at]
        return {"value": value, "ts": when, "seq": place}

    def _extreme(self) -> np.ufunc:
        # Those of the two that ignore NaN, which stands for nothing here.
        return np.fmin if self._function == "min" else np.fmax

    def empty(self) -> Columns:
        """Return the columns of no pane."""
        no_ints = np.empty(0, np.int64)
        return self.of(np.empty(0), no_ints, no_ints, no_ints, 0)

    def added(self, columns: Columns, other: Columns, rows: Ints) -> None:
        """Add panes to others in place; `rows` are theirs, all different."""
        if "n" in columns:
            columns["n"][rows] += other["n"]
        if "total" in columns:
            columns["total"][rows] += other["total"]
        if self._function in ("min", "max"):
            columns["value"][rows] = self._extreme()(columns["value"][rows], other["value"])
        elif "ts" in columns:
            ts, seq = columns["ts"][rows], columns["seq"][rows]
            earlier = (other["ts"] < ts) | ((other["ts"] == ts) & (other["seq"] < seq))
            wins = (earlier if self._function == "first" else ~earlier) & ~np.isnan(other["value"])
            wins |= np.isnan(columns["value"][rows])
            for name in ("value", "ts", "seq"):
                columns[name][rows[wins]] = other[name][wins]

    def result(self, columns: Columns, due: Due) -> Floats:
        """Return the value of each window, NaN where it has none."""
        if self._function == "count":
            return sums(columns["n"], due).astype(np.float64)
        if self._function in ("sum", "mean"):
            counts = sums(columns["n"], due)
            total = binary_sums.quotients(sums(columns["total"], due), counts if self._function == "mean" else None)
            return np.where(counts > 0, total, np.nan)
        value = columns["value"]
        if self._function in ("min", "max"):
            # Windows overlap, so each is cut out of the columns by a pair of places of which the second is dropped.
            cuts = np.column_stack([due.first, due.last + 1]).ravel()
            found: Floats = self._extreme().reduceat(np.append(value, np.nan), cuts)[::2]
            return found
        rows, present = np.arange(len(value)), ~np.isnan(value)
        if self._function == "first":
            nearest = np.minimum.accumulate(np.where(present, rows, len(value))[::-1])[::-1][due.first]
            inside = nearest <= due.last
        else:
            nearest = np.maximum.accumulate(np.where(present, rows, -1))[due.last]
            inside = nearest >= due.first
        return np.where(inside, value[np.where(inside, nearest, 0)], np.nan)

    def restored(self, state: Mapping[str, list[Any]]) -> Columns:
        """Return columns that went through plain values."""
        return {name: np.array(state[name], column.dtype) for name, column in self.empty().items()}


def plain(columns: Columns) -> dict[str, list[Any]]:
    """Return columns as plain values; what is NaN is None, and sums may be integers of any size."""
    return {
        name: [None if v != v else v for v in column.tolist()]  # noqa: PLR0124  only NaN is not itself
        for name, column in columns.items()
    }


def _split(text: str, where: str) -> tuple[str, str | None]:
    # The function, and the expression in its parentheses.
    wrong = ConfigurationError(
        f"{where}: {text!r} is no aggregate; write one of {', '.join(FUNCTIONS)} of one expression, such as sum(size)"
    )
    if not isinstance(text, str):
        raise wrong
    try:
        call = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as exc:
        raise wrong from exc
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id not in FUNCTIONS:
        raise wrong
    if call.keywords or len(call.args) > 1 or (not call.args and call.func.id != "count"):
        raise wrong
    inner = ast.get_source_segment(text.strip(), call.args[0]) if call.args else None
    return call.func.id, inner
