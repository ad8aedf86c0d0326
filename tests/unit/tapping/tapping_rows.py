"""Graphs to tap, and what taps gave as plain values."""

from __future__ import annotations

from market_data_pipeline.dag import parse_graph


def graph_of(nodes, edges):
    """The graph; its sinks are store and null."""
    return parse_graph({"nodes": nodes, "edges": edges}, sinks=["store", "null"])


def spans(tap, max_rows: int = 1 << 16):
    """All spans there are now."""
    found = []
    while True:
        before = tap.position
        found.extend(tap.read(max_rows))
        if tap.position == before:
            return found


def left(tap, max_rows: int = 1 << 16):
    """Every row that left by now, as (output, row)."""
    return [
        (port, row)
        for span in spans(tap, max_rows)
        for port, batch in span.batches
        for row in batch.to_table().to_pylist()
    ]


def prices(tap):
    """The prices that left by now, in order."""
    return [int(row["price"]) for _, row in left(tap)]
