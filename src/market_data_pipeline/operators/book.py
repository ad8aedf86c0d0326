"""One order book: levels or orders in, best bid and ask out."""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heapify, heappop, heappush
from typing import Any

BID, ASK = 0, 1
Top = tuple[float | None, float | None, float | None, float | None]
"""Bid price, bid size, ask price, ask size; None where a side is empty."""


# One side: sizes by price, and a heap that finds the best price. A price that has gone stays in the heap until it
# comes up or until most of the heap is of that sort.
class _Side:
    def __init__(self, sign: int) -> None:
        self.sizes: dict[float, float] = {}
        self._sign = sign
        self._heap: list[float] = []

    def set(self, price: float, size: float) -> None:
        if price not in self.sizes:
            heappush(self._heap, self._sign * price)
        self.sizes[price] = size
        if len(self._heap) > 2 * len(self.sizes) + 64:
            self._heap = [self._sign * p for p in self.sizes]
            heapify(self._heap)

    def delete(self, price: float) -> None:
        self.sizes.pop(price, None)

    def add(self, price: float, steps: int) -> None:
        left = self.sizes.get(price, 0) + steps
        if left > 0:
            self.set(price, left)
        else:
            self.delete(price)

    def clear(self) -> None:
        self.sizes.clear()
        self._heap.clear()

    def best(self) -> tuple[float | None, float | None]:
        heap, sizes = self._heap, self.sizes
        while heap:
            price = self._sign * heap[0]
            if price in sizes:
                return price, sizes[price]
            heappop(heap)
        return None, None


class Book:
    """A book kept by price or by order; a stream gives the one or the other.

    Sizes of levels are as given. Those of orders are whole steps of the instrument, so that adding and taking away
    leaves no rest.

    Attributes:
        size_scale: Steps per unit of size.
        doubtful: True after a message about an order that the book does not know, until the next clear.
    """

    def __init__(self, size_scale: int) -> None:
        self.size_scale = size_scale
        self.doubtful = False
        self._sides = (_Side(-1), _Side(1))
        self._orders: dict[str, tuple[int, float, int]] = {}

    def set_level(self, side: int, price: float, size: float) -> None:
        """Let a price have this size; of 0 or less it goes."""
        if size > 0:
            self._sides[side].set(price, size)
        else:
            self._sides[side].delete(price)

    def put_order(self, order_id: str, side: int, price: float, steps: int) -> None:
        """Let an order stand like this, new or instead of what it was."""
        self._drop(order_id)
        if steps > 0:
            self._orders[order_id] = (side, price, steps)
            self._sides[side].add(price, steps)

    def reduce_order(self, order_id: str, steps: int | None) -> None:
        """Take so much away from an order, None for all of it."""
        order = self._orders.get(order_id)
        if order is None:
            self.doubtful = True
            return
        side, price, had = order
        left = 0 if steps is None else had - steps
        self.put_order(order_id, side, price, left)

    def _drop(self, order_id: str) -> None:
        order = self._orders.pop(order_id, None)
        if order is not None:
            self._sides[order[0]].add(order[1], -order[2])

    def clear(self, side: int | None) -> None:
        """Empty one side, or both."""
        for each in (BID, ASK) if side is None else (side,):
            self._sides[each].clear()
        if side is None:
            self._orders.clear()
            self.doubtful = False
        else:
            self._orders = {i: o for i, o in self._orders.items() if o[0] != side}

    def top(self) -> Top:
        """Return the best of both sides."""
        bid, bid_size = self._sides[BID].best()
        ask, ask_size = self._sides[ASK].best()
        return bid, self._units(bid_size), ask, self._units(ask_size)

    def _units(self, size: float | None) -> float | None:
        # Whole numbers are steps of orders; levels are floats.
        return size / self.size_scale if isinstance(size, int) else size

    def snapshot(self) -> dict[str, Any]:
        """Return the book as plain values."""
        return {
            "size_scale": self.size_scale,
            "doubtful": self.doubtful,
            "levels": [[list(level) for level in side.sizes.items()] for side in self._sides],
            "orders": [[order_id, *order] for order_id, order in self._orders.items()],
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Book:
        """Return the book of which `snapshot` gave the state."""
        book = cls(state["size_scale"])
        for side, levels in zip(book._sides, state["levels"], strict=True):
            for price, size in levels:
                side.set(price, size)
        book._orders = {order_id: (side, price, steps) for order_id, side, price, steps in state["orders"]}
        book.doubtful = state["doubtful"]
        return book
