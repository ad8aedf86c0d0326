"""Where events enter a graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np

from market_data_core.batch import EventBatch, Instruments
from market_data_core.protocols import Mark, Result
from market_data_core.schemas import Kind

EVENT_KINDS: Final = frozenset(set(Kind) - {Kind.CONTROL})
"""Every kind that a source or an operator can give."""


class Entrance:
    """Where events of a source enter a graph; lets through what the graph asked of it.

    Args:
        kinds: Which kinds; empty for all.
        symbols: Which symbols, upper-cased; empty for all.
        vendors: Whose; empty for all.
        name: Of the node.
    """

    def __init__(
        self,
        *,
        kinds: Iterable[str] = (),
        symbols: Iterable[str] = (),
        vendors: Iterable[str] = (),
        name: str,
    ) -> None:
        self._kinds = frozenset(Kind(k) for k in kinds) or EVENT_KINDS
        self._symbols = frozenset(s.upper() for s in symbols)
        self._vendors = frozenset(vendors)
        self._name = name
        self._table: Instruments | None = None
        self._wanted = np.empty(0, np.bool_)

    @property
    def name(self) -> str:
        """The node's name."""
        return self._name

    @property
    def kinds(self) -> frozenset[Kind]:
        """All kinds; those it does not want it filters out."""
        return EVENT_KINDS

    @property
    def wanted(self) -> frozenset[Kind]:
        """The kinds that it lets through."""
        return self._kinds

    def gives(self, incoming: frozenset[Kind]) -> frozenset[Kind]:
        """Return what it lets through of what comes in."""
        return incoming & self._kinds

    def process(self, batch: EventBatch) -> Result:
        """Return what was asked for, in order."""
        if batch.kind not in self._kinds:
            return Result(filtered=len(batch))
        if not self._symbols and not self._vendors:
            return Result(out=[batch])
        kept = batch.filter(self._of(batch.instruments)[batch.column("instrument")])
        return Result(out=[kept] if len(kept) else [], filtered=len(batch) - len(kept))

    def _of(self, table: Instruments) -> np.ndarray[Any, np.dtype[np.bool_]]:
        if table is not self._table:
            self._table, self._wanted = table, np.empty(0, np.bool_)
        if len(self._wanted) < len(table):
            fresh = [
                (not self._symbols or table[i].symbol in self._symbols)
                and (not self._vendors or table[i].vendor in self._vendors)
                for i in range(len(self._wanted), len(table))
            ]
            self._wanted = np.concatenate([self._wanted, np.array(fresh, np.bool_)])
        return self._wanted

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
        """Take up nothing."""
        del state
