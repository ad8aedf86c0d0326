"""Keep the rows for which a condition holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from market_data_core.batch import EventBatch
from market_data_core.protocols import Mark, Result
from market_data_core.schemas import Kind
from market_data_pipeline.operators.data_kinds import kind_named
from market_data_pipeline.operators.expressions import Expression, condition


class Filter:
    """Passes the rows for which a condition holds, in order; the others are filtered.

    It works on every kind that has all the columns of the condition; the others go past it.

    Args:
        where: A condition in the language of `expressions`, such as ``price > 0 and size >= 100``.
        kind: The one kind to work on; None for all that fit.
        name: Of the node.

    Raises:
        ConfigurationError: The condition cannot be read, gives no truth, or no kind fits it.
    """

    def __init__(self, *, where: str, kind: str | None = None, name: str = "filter") -> None:
        self._name = name
        expression = Expression(where, where=name)
        kinds = expression.kinds() if kind is None else {kind_named(kind, where=name)}
        self._conditions = {k: condition(expression, k, where=name) for k in kinds}

    @property
    def name(self) -> str:
        """The node's name."""
        return self._name

    @property
    def kinds(self) -> frozenset[Kind]:
        """The kinds that have every column of the condition."""
        return frozenset(self._conditions)

    def gives(self, incoming: frozenset[Kind]) -> frozenset[Kind]:
        """What comes in."""
        return incoming

    def process(self, batch: EventBatch) -> Result:
        """Return the rows for which the condition holds."""
        if not len(batch):
            return Result()
        kept = batch.filter(self._conditions[batch.kind].truth(batch))
        return Result(out=[kept] if len(kept) else [], filtered=len(batch) - len(kept))

    def advance(self, mark: Mark) -> None:
        """Time does not matter here."""

    def barrier(self, end: int, ts_known_ns: int) -> Result:
        """Return nothing: what goes in comes out at once."""
        del end, ts_known_ns
        return Result()

    def in_flight(self) -> int:
        """Return 0."""
        return 0

    def snapshot(self) -> dict[str, Any]:
        """Return nothing: there is no state."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Do nothing: there is no state."""
