"""From the instruments of sources to those of the log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa

from market_data_core.batch import Instrument, Instruments, SourceBatch, plain_values
from market_data_core.errors import SchemaValidationError

_MOST_TABLES: Final = 256


@dataclass(slots=True)
class _Mapped:
    # Holding the source's table keeps its id() from being given to another.
    table: Sequence[Instrument]
    ids: list[int] = field(default_factory=list)
    array: pa.Array | None = None
    same: bool = True


class InstrumentMap:
    """Translates instrument ids; work is done where a source's table has grown, not per batch.

    Args:
        instruments: The log's own table.
    """

    def __init__(self, instruments: Instruments) -> None:
        self._instruments = instruments
        self._mapped: dict[int, _Mapped] = {}

    def unseen(self, batch: SourceBatch) -> list[Instrument]:
        """Return the instruments of a batch's source that the log has not seen, each once.

        Raises:
            SchemaValidationError: A row names an instrument that its source's table does not have. Logged, it could
                never be read.
        """
        ids = batch.data.column(0)
        # As unsigned numbers those below 0 are too high as well.
        if ids.null_count or plain_values(ids, np.uint32).max() >= len(batch.instruments):
            raise SchemaValidationError(
                f"batch of {batch.kind} from {batch.source_id or 'live source'} names instruments outside its table "
                f"of {len(batch.instruments)}"
            )
        known = self._mapped.get(id(batch.instruments))
        done = len(known.ids) if known is not None else 0
        if done == len(batch.instruments):
            return []
        found: dict[tuple[str, str], Instrument] = {}
        for entry in batch.instruments[done:]:
            if self._instruments.find(entry.vendor, entry.symbol) is None:
                found.setdefault((entry.vendor, entry.symbol), entry)
        return list(found.values())

    def translate(self, batch: SourceBatch) -> pa.RecordBatch:
        """Return the data of a batch with the log's ids; the log's table grows by what `unseen` gave."""
        # A source's table only grows, so what was mapped before stays mapped.
        known = self._mapped.get(id(batch.instruments))
        if known is None:
            if len(self._mapped) >= _MOST_TABLES:
                self._mapped.pop(next(iter(self._mapped)))
            known = self._mapped[id(batch.instruments)] = _Mapped(batch.instruments)
        if len(known.ids) < len(batch.instruments):
            for entry in batch.instruments[len(known.ids) :]:
                instrument_id = self._instruments.add(entry)
                known.same = known.same and instrument_id == len(known.ids)
                known.ids.append(instrument_id)
            known.array = None
        if known.same:
            return batch.data
        if known.array is None:
            known.array = pa.array(known.ids, pa.int32())
        return batch.data.set_column(0, batch.data.schema.field(0), known.array.take(batch.data.column(0)))
