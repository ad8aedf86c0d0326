"""What operators that follow an instrument over all its sources share: its place, and the way back to a log's id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from market_data_core.batch import EventBatch, Instrument, Instruments
from market_data_core.schemas import Flag
from market_data_pipeline.operators.streams import Ints, Streams


def instrument_places(streams: Streams, batch: EventBatch) -> Ints:
    """Return the place of each row's instrument, whichever source gives it.

    Args:
        streams: A table that is used for this alone.
        batch: Rows of any kind.
    """
    return streams.places(replace(batch, source_id=""))


def ids_of(entries: Sequence[Instrument], newest: Instruments | None) -> tuple[npt.NDArray[np.int32], Instruments]:
    """Return the ids of some instruments, and the table that they are ids of.

    Args:
        entries: Different instruments.
        newest: The table of the newest batch. After a restart and before the first batch there is none; the
            instruments then get a table of their own.
    """
    if newest is not None:
        known = [newest.find(e.vendor, e.symbol) for e in entries]
        found = [i for i in known if i is not None]
        if len(found) == len(entries):
            return np.array(found, np.int32), newest
    own = Instruments()
    return np.array([own.add(e) for e in entries], np.int32), own


def believed(batch: EventBatch) -> EventBatch:
    """Return the rows whose time is not flagged as far ahead; the batch itself where that is all of them."""
    flags = batch.column("flags").astype(np.int32, copy=False)
    return batch.filter((flags & int(Flag.TS_EVENT_FUTURE)) == 0)
