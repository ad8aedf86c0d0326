"""De-duplication by the source's own identity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from market_data_core.batch import EventBatch, Instrument
from market_data_core.protocols import Mark, Result
from market_data_core.schemas import Kind


class Dedupe:
    """Drops trades whose trade id the same vendor has given for the same instrument before.

    Vendors are never compared with each other. Trades without an id cannot be told apart from equal ones and pass.

    Args:
        remember: Ids kept per instrument; the oldest go first. Repeats come soon (a reconnect, a resend), so this
            bounds memory, not correctness in practice.
        name: Of the node.
    """

    def __init__(self, *, remember: int = 100_000, name: str = "dedupe") -> None:
        self._remember = remember
        self._name = name
        # Insertion order is age; a dict keeps both that and membership.
        self._seen: dict[tuple[str, str], dict[str, None]] = {}

    @property
    def name(self) -> str:
        """The node's name."""
        return self._name

    @property
    def kinds(self) -> frozenset[Kind]:
        """Trades."""
        return frozenset({Kind.TRADES})

    def gives(self, incoming: frozenset[Kind]) -> frozenset[Kind]:
        """What comes in."""
        return incoming

    def process(self, batch: EventBatch) -> Result:
        """Return what was not seen before, in order."""
        ids = batch.data.column("trade_id")
        if ids.null_count == len(ids):
            return Result(out=[batch])
        keep = np.ones(len(batch), np.bool_)
        instruments = batch.column("instrument")
        seen_of = {i: self._of(batch.instruments[i]) for i in np.unique(instruments).tolist()}
        for row, (i, trade_id) in enumerate(zip(instruments.tolist(), ids.to_pylist(), strict=True)):
            if trade_id is None:
                continue
            seen = seen_of[i]
            if trade_id in seen:
                keep[row] = False
                continue
            seen[trade_id] = None
            if len(seen) > self._remember:
                del seen[next(iter(seen))]
        duplicate = len(batch) - int(keep.sum())
        kept = batch.filter(keep)
        return Result(out=[kept] if len(kept) else [], duplicate=duplicate)

    def _of(self, instrument: Instrument) -> dict[str, None]:
        return self._seen.setdefault((instrument.vendor, instrument.symbol), {})

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
        """Return the ids seen."""
        return {"seen": [[vendor, symbol, list(ids)] for (vendor, symbol), ids in self._seen.items()]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `snapshot` gave."""
        self._seen = {(vendor, symbol): dict.fromkeys(ids) for vendor, symbol, ids in state["seen"]}
