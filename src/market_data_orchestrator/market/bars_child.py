"""The process that makes bars for live clients: ``python -m market_data_orchestrator.market.bars_child``.

The first line of stdin is a JSON object ``{"log_folder", "graph", "nodes"}``; stdin's end is the process's. Each line
of stdout is a JSON list of bars, as rows of their table. The log is read as far as it is durable and never locked.

Bars are made here again, and not taken from the consumers that store them, because those give them to the store and to
nobody else. In a process of its own, because operators in the service's own threads would hold up what receives events.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

import orjson

from market_data_core.batch import EventBatch
from market_data_core.clock import NS_PER_SECOND
from market_data_core.schemas import BAR_KEY, Kind, interval_ns
from market_data_pipeline.dag import GraphSpec
from market_data_pipeline.tapping import POLL_S, GraphTap, position_at

# A bar of one hour needs an hour of the log to be whole; of longer ones, the first is not shown instead.
LONGEST_LOOK_BACK_NS: Final = 3600 * NS_PER_SECOND
_MARGIN_NS: Final = 5 * NS_PER_SECOND
_SERIES: Final = tuple(name for name in BAR_KEY if name != "ts_event")


class WholeBars:
    """One node's bars, those alone that hold all of their interval.

    Reading begins as long ago as an interval is, so a bar that ends from now on has all its events.

    Args:
        graph: With its secrets.
        node: Which node makes them.
        log_folder: The log.
        now_ns: UTC nanoseconds.
    """

    def __init__(self, graph: GraphSpec, node: str, *, log_folder: Path, now_ns: int) -> None:
        interval = str(graph.node(node).params.get("interval", "1m"))
        self._length_ns = interval_ns(interval)
        back_ns = min(self._length_ns, LONGEST_LOOK_BACK_NS) + _MARGIN_NS
        self._tap = GraphTap(graph, node, log_folder=log_folder, start=position_at(log_folder, now_ns - back_ns))
        self._shown_from = self._tap.durable_end
        self._begun: set[tuple[Any, ...]] = set()

    @property
    def position(self) -> int:
        """How far it has read."""
        return self._tap.position

    def read(self) -> list[dict[str, Any]]:
        """Return the bars that have come since the last call, as rows of their table."""
        rows: list[dict[str, Any]] = []
        for span in self._tap.read():
            for _, batch in span.batches:
                if span.end > self._shown_from and batch.kind is Kind.BARS:
                    rows += self._whole(batch)
        self._tap.problems.clear()
        return rows

    def _whole(self, batch: EventBatch) -> list[dict[str, Any]]:
        rows = [row for row in batch.to_table().to_pylist() if row["source"] == "internal"]
        if self._length_ns <= LONGEST_LOOK_BACK_NS:
            return rows
        whole = []
        for row in rows:
            series = tuple(row[name] for name in _SERIES)
            if series in self._begun:
                whole.append(row)
            self._begun.add(series)
        return whole


def main() -> None:
    """Make bars until stdin ends."""
    asked = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_stdin, name="parent-watch", daemon=True).start()
    graph, folder = GraphSpec.from_json(asked["graph"]), Path(asked["log_folder"])
    nodes = [WholeBars(graph, name, log_folder=folder, now_ns=time.time_ns()) for name in asked["nodes"]]
    while True:
        before = [node.position for node in nodes]
        for node in nodes:
            rows = node.read()
            if rows:
                sys.stdout.buffer.write(orjson.dumps(rows) + b"\n")
                sys.stdout.buffer.flush()
        if [node.position for node in nodes] == before:
            time.sleep(POLL_S)


def _end_with_stdin() -> None:
    while sys.stdin.buffer.read(4096):
        pass
    os._exit(0)


if __name__ == "__main__":
    main()
