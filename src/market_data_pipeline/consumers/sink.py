"""Sinks that take values, as consumers see them: tables whose position is kept beside them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from market_data_core import disk
from market_data_core.batch import EventBatch, Instrument, Instruments
from market_data_core.errors import ConfigurationError, MarketDataError, SinkError, TemporaryUnavailable
from market_data_core.protocols import Sink, Table
from market_data_core.schemas import EVENT_SCHEMAS, Kind, Origin
from market_data_pipeline.events import has_events, iter_events


class SinkStore:
    """Any sink of values (``write``, ``flush``, ``close``) as a store, one table per kind.

    A sink does not know how far it is. Its position is written to a file after every flush, so each value arrives at
    least once: those of the last commit again, where a crash came between flush and file. A sink that can do better is
    a `Store` itself.

    Args:
        make: Makes the sink; called in the consumer's thread, and again after a failure.
        path: File of the positions; its folder exists.
    """

    def __init__(self, make: Callable[[], Sink[Any]], path: Path) -> None:
        self._make = make
        self._path = path
        self._sink: Sink[Any] | None = None
        self._runner: asyncio.Runner | None = None
        self._positions = self._read()

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            return dict(json.loads(self._path.read_bytes()))
        except FileNotFoundError:
            return {}
        except ValueError as exc:
            raise SinkError(f"positions of a sink in {self._path} cannot be read: {exc}") from exc

    def open(self) -> None:
        """Do nothing: the sink is made when it is first written to."""

    def maintain(self) -> Mapping[str, Any]:
        """Do nothing: a sink keeps itself in order."""
        return {}

    def describe(self) -> Mapping[str, Any]:
        """Return nothing."""
        return {}

    def written(self) -> frozenset[str]:
        """Return the kinds that anything was written of."""
        return frozenset(key.partition("|")[0] for key in self._positions)

    def ticks(self, kind: Kind, vendor: str, symbol: str, *, start_ns: int, end_ns: int, below_seq: int) -> pa.Table:
        """Refuse: nothing can be read from a sink."""
        del vendor, symbol, start_ns, end_ns, below_seq
        raise ConfigurationError(f"{kind} cannot be read back from a sink")

    def table(self, name: str) -> Table:
        """Return the view of one kind."""
        return _SinkTable(self, Kind(name))

    def position(self, table: str, writer: str) -> dict[str, Any]:
        """Return the position and covers of a writer."""
        return dict(self._positions.get(f"{table}|{writer}", {}))

    def write(self, kind: Kind, batches: list[EventBatch], *, writer: str, position: Mapping[str, Any]) -> None:
        """Hand values to the sink, have it flush them, and note the position.

        Raises:
            TemporaryUnavailable: The sink did not take them.
        """
        values = [v for b in batches for v in (iter_events(b) if has_events(b.kind) else b.to_table().to_pylist())]
        try:
            if values:
                self._run(self._written(values))
            self._positions[f"{kind}|{writer}"] = dict(position)
            disk.write_atomic(self._path, json.dumps(self._positions).encode())
        except MarketDataError:
            self._let_go()
            raise
        except Exception as exc:
            # Whatever a sink raises: it is made anew, and given the same values again.
            self._let_go()
            raise TemporaryUnavailable(f"sink of {writer} failed: {type(exc).__name__}: {exc}") from exc

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        if self._runner is None:
            self._runner = asyncio.Runner()
        self._runner.run(work)

    async def _written(self, values: list[Any]) -> None:
        if self._sink is None:
            self._sink = self._make()
        await self._sink.write(values)
        await self._sink.flush()

    def _let_go(self) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            try:
                self._run(sink.close())
            except Exception as exc:  # noqa: BLE001  it failed before; that is the error to tell
                del exc

    def close(self) -> None:
        """Close the sink. May be called twice."""
        self._let_go()
        if self._runner is not None:
            self._runner.close()
            self._runner = None


class _SinkTable:
    def __init__(self, store: SinkStore, kind: Kind) -> None:
        self._store = store
        self._kind = kind

    @property
    def name(self) -> str:
        return str(self._kind)

    def position(self, writer: str) -> int | None:
        found = self._store.position(self.name, writer)
        return int(found["position"]) if found else None

    def covers(self, writer: str) -> dict[str, int]:
        return dict(self._store.position(self.name, writer).get("covers", {}))

    def append(self, rows: pa.Table, *, writer: str, position: int, covers: Mapping[str, int]) -> None:
        where = {"position": position, "covers": {**self.covers(writer), **covers}}
        self._store.write(self._kind, list(_events(rows, self._kind)), writer=writer, position=where)


# Rows as stores are given them, as events again: a batch for each way they came to us, for that is one per batch.
def _events(rows: pa.Table, kind: Kind) -> Iterator[EventBatch]:
    instruments = Instruments()
    for origin in pc.unique(rows.column("origin")).to_pylist():
        part = rows.filter(pc.equal(rows.column("origin"), origin)).combine_chunks()
        names = zip(part.column("vendor").to_pylist(), part.column("symbol").to_pylist(), strict=True)
        ids = pa.array([instruments.add(Instrument(vendor=v, symbol=s)) for v, s in names], pa.int32())
        schema = EVENT_SCHEMAS[kind]
        arrays = [ids if n == "instrument" else part.column(n).combine_chunks() for n in schema.names]
        data = pa.RecordBatch.from_arrays(arrays, schema=schema)
        yield EventBatch(kind=kind, data=data, instruments=instruments, origin=Origin(origin))
