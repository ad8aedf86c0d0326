"""Send rows different ways."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from market_data_core.batch import EventBatch
from market_data_core.errors import ConfigurationError
from market_data_core.protocols import Mark, Result
from market_data_core.schemas import Kind
from market_data_pipeline.operators.expressions import Expression, condition


class Router:
    """Sends each row to the first route whose condition holds.

    Rows keep their order within a route. A route that names a column its kind does not have takes no rows of that
    kind; kinds that no route fits go past.

    Args:
        routes: By name of the output, a condition in the language of `expressions`; tried in this order.
        otherwise: ``pass``: rows that no route takes come out of the default output. ``drop``: they are filtered.
        name: Of the node.

    Raises:
        ConfigurationError: There is no route, a condition is wrong, or `otherwise` is neither.
    """

    def __init__(self, *, routes: Mapping[str, str], otherwise: str = "pass", name: str = "router") -> None:
        if otherwise not in ("pass", "drop"):
            raise ConfigurationError(f"{name}: otherwise {otherwise!r} is neither pass nor drop")
        if not isinstance(routes, Mapping) or not routes:
            raise ConfigurationError(f"{name}: give at least one route, such as big: 'size >= 1000'")
        self._name = name
        self._drops = otherwise == "drop"
        self.ports: tuple[str, ...] = tuple(routes)
        expressions = {port: Expression(text, where=f"{name} route {port}") for port, text in routes.items()}
        fits = {port: expression.kinds() for port, expression in expressions.items()}
        self._conditions = {
            kind: {
                port: condition(expression, kind, where=f"{name} route {port}")
                for port, expression in expressions.items()
                if kind in fits[port]
            }
            for kind in frozenset().union(*fits.values())
        }

    @property
    def name(self) -> str:
        """The node's name."""
        return self._name

    @property
    def kinds(self) -> frozenset[Kind]:
        """The kinds that fit at least one route."""
        return frozenset(self._conditions)

    def gives(self, incoming: frozenset[Kind]) -> frozenset[Kind]:
        """What comes in."""
        return incoming

    def process(self, batch: EventBatch) -> Result:
        """Return the rows by route."""
        result = Result()
        rest = batch
        for port, route in self._conditions[batch.kind].items():
            if not len(rest):
                return result
            holds = route.truth(rest)
            taken = rest.filter(holds)
            if len(taken):
                result.ports[port] = [taken]
                rest = rest.filter(~holds)
        if len(rest) and self._drops:
            result.filtered = len(rest)
        elif len(rest):
            result.out.append(rest)
        return result

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
