"""The last value of every instrument, for those who come later."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from market_data_core.batch import Instrument
from market_data_core.clock import NS_PER_SECOND
from market_data_core.schemas import BAR_KEY, TABLE_SCHEMAS, Kind
from market_data_orchestrator.data import StoredData
from market_data_orchestrator.market.messages import Channel
from market_data_orchestrator.market.outbox import Parcel
from market_data_store.backend import Backend, Wanted

_SERIES: Final = tuple(name for name in BAR_KEY if name != "ts_event")
_LOOK_BACK_NS: Final = 86_400 * NS_PER_SECOND


class Seeds(Protocol):
    """Finds bars that were made before anybody listened."""

    async def bars(self, symbols: Sequence[str]) -> list[dict[str, Any]]:
        """Return the last bar of every series of these symbols, as rows of the table.

        Raises:
            MarketDataError: They cannot be had now.
        """
        ...


class StoredBars:
    """The last bars, from the store: of the newest day that is at most a day ago.

    Args:
        data: The store.
        now_ns: Says what time it is, UTC nanoseconds.
    """

    def __init__(self, data: StoredData, now_ns: Callable[[], int]) -> None:
        self._data = data
        self._now_ns = now_ns

    async def bars(self, symbols: Sequence[str]) -> list[dict[str, Any]]:
        """Return the last bar of every series, as `Seeds` says."""
        wanted = Wanted(start_ns=self._now_ns() - _LOOK_BACK_NS, symbols=tuple(symbols))

        def look(backend: Backend) -> list[dict[str, Any]]:
            newest: dict[tuple[Any, ...], dict[str, Any]] = {}
            for batch in backend.stream(str(Kind.BARS), wanted):
                for row in _last_of_runs(batch).to_pylist():
                    series = tuple(row[name] for name in _SERIES)
                    if series not in newest or row["ts_event"] >= newest[series]["ts_event"]:
                        newest[series] = row
            return list(newest.values())

        return await self._data.read(look)


@dataclass(frozen=True, slots=True)
class _Place:
    # A row in a small batch of last rows.
    batch: pa.RecordBatch
    place: int
    instrument: Instrument
    origin: str
    ts_event: int


class LastValues:
    """Keeps the last quote and trade of every instrument, and the last bar of every series.

    Of depth nothing is kept: one update of a book says little without those before it.
    """

    def __init__(self) -> None:
        # By symbol and vendor.
        self._rows: dict[Kind, dict[str, dict[str, _Place]]] = {
            Kind.QUOTES: {},
            Kind.TRADES: {},
        }
        self._bars: dict[str, dict[tuple[Any, ...], Mapping[str, Any]]] = {}

    def keep(
        self,
        kind: Kind,
        instruments: Sequence[Instrument],
        data: pa.RecordBatch,
        ids: npt.NDArray[Any],
        origin: str,
    ) -> None:
        """Take note of events that came.

        Args:
            kind: What they are.
            instruments: What ids mean.
            data: The events.
            ids: Their instruments.
            origin: How they came.
        """
        if kind is Kind.BARS:
            for row in data.to_pylist():
                instrument = instruments[row["instrument"]]
                self.keep_row(kind, row_of(kind, instrument, row, origin))
            return
        kept = self._rows.get(kind)
        if kept is None:
            return
        # The last row of each instrument: the first in the reversed batch. Copied, so that the batch can go.
        unique, from_end = np.unique(ids[::-1], return_index=True)
        last = data.take(pa.array(len(ids) - 1 - from_end))
        times = last.column("ts_event").to_pylist()
        for place, (id_, ts_event) in enumerate(zip(unique.tolist(), times, strict=True)):
            instrument = instruments[id_]
            of_symbol = kept.setdefault(instrument.symbol, {})
            before = of_symbol.get(instrument.vendor)
            # What is replayed from long ago is not the last that is known of an instrument that is live.
            if before is None or before.origin == origin or ts_event >= before.ts_event:
                of_symbol[instrument.vendor] = _Place(last, place, instrument, origin, ts_event)

    def keep_row(self, kind: Kind, row: Mapping[str, Any]) -> None:
        """Take note of a row that was made; only bars are kept so."""
        if kind is Kind.BARS:
            series = self._bars.setdefault(row["symbol"], {})
            key = tuple(row[name] for name in _SERIES)
            before = series.get(key)
            # A revision of an older bar is none of the newest.
            if before is None or row["ts_event"] >= before["ts_event"]:
                series[key] = row

    def keep_older(self, kind: Kind, row: Mapping[str, Any]) -> bool:
        """Take note of a row from the store; False if something as new is known already."""
        key = tuple(row[name] for name in _SERIES)
        if key in self._bars.get(row["symbol"], {}):
            return False
        self.keep_row(kind, row)
        return True

    def of(self, channels: Sequence[Channel]) -> tuple[list[Parcel], list[Channel]]:
        """Return the last values of channels, and those channels of which there are none."""
        found: list[Parcel] = []
        unknown: list[Channel] = []
        for kind, symbol in channels:
            parcels = self._parcels(kind, symbol)
            found += parcels
            if not parcels:
                unknown.append((kind, symbol))
        return found, unknown

    def _parcels(self, kind: Kind, symbol: str) -> list[Parcel]:
        if kind is Kind.BARS:
            bars = self._bars.get(symbol, {}).values()
            return [Parcel(kind, bar["vendor"], symbol, (orjson.dumps(bar).decode(),)) for bar in bars]
        parcels = []
        for last in self._rows.get(kind, {}).get(symbol, {}).values():
            row = row_of(kind, last.instrument, last.batch.slice(last.place, 1).to_pylist()[0], last.origin)
            parcels.append(Parcel(kind, last.instrument.vendor, symbol, (orjson.dumps(row).decode(),)))
        return parcels


def row_of(kind: Kind, instrument: Instrument, row: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Return one event in the columns of its kind's table."""
    named = {"vendor": instrument.vendor, "symbol": instrument.symbol, "origin": origin}
    return {n: named[n] if n in named else row[n] for n in TABLE_SCHEMAS[kind].names}


def _last_of_runs(batch: pa.RecordBatch) -> pa.RecordBatch:
    # The store gives rows by key, time last: of each series the last row of its run is the newest.
    if batch.num_rows < 2:
        return batch
    ends = np.zeros(batch.num_rows, np.bool_)
    ends[-1] = True
    for name in _SERIES:
        codes = batch.column(name).dictionary_encode().indices.fill_null(-1).to_numpy()
        ends[:-1] |= codes[1:] != codes[:-1]
    return batch.filter(pa.array(ends))
