"""Events held inside an operator: whole rows of one kind that come out later as they are."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from market_data_core.batch import EventBatch, empty_events
from market_data_core.schemas import Kind
from market_data_pipeline.operators.streams import Ints
from market_data_pipeline.operators.watermarks import Watermarks


class Held:
    """Rows of one kind and the streams they belong to, in the order in which they were put.

    Attributes:
        places: The stream of each row, as `Watermarks` numbers them.
        data: The rows; their ``instrument`` means nothing here.
    """

    def __init__(self, kind: Kind, places: Ints | None = None, data: pa.RecordBatch | None = None) -> None:
        self._kind = kind
        self.places = np.empty(0, np.int64) if places is None else places
        self.data = empty_events(kind) if data is None else data

    def __len__(self) -> int:
        return len(self.places)

    def ints(self, name: str) -> Ints:
        """Return a column of whole numbers without nulls as int64."""
        values: npt.NDArray[Any] = self.data.column(name).to_numpy(zero_copy_only=False)
        return values.astype(np.int64, copy=False)

    def take(self, rows: Ints) -> Held:
        """Return some rows in the order given."""
        return Held(self._kind, self.places[rows], self.data.take(pa.array(rows)))

    def with_rows(self, places: Ints, data: pa.RecordBatch) -> Held:
        """Return these rows and further ones after them."""
        if not len(self):
            return Held(self._kind, places, data)
        return Held(self._kind, np.concatenate([self.places, places]), pa.concat_batches([self.data, data]))

    def moved(self, moved: Ints | None) -> Held:
        """Return the rows under new places, as `Watermarks.forget_ended` gives them."""
        return self if moved is None else Held(self._kind, moved[self.places], self.data)

    def batches(self, watermarks: Watermarks) -> list[EventBatch]:
        """Return all rows as batches, one per source, rows in order."""
        if not len(self):
            return []
        names = [name for name in self.data.schema.names if name != "instrument"]

        def columns(rows: Ints) -> Mapping[str, Any]:
            taken = self.data if len(rows) == len(self) else self.data.take(pa.array(rows))
            return {name: taken.column(name) for name in names}

        return watermarks.batches(self._kind, self.places, columns)

    def snapshot(self) -> dict[str, Any]:
        """Return the rows as plain values: text that holds Arrow's stream format, a tenth of the work of lists."""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.data.schema) as writer:
            writer.write_batch(self.data)
        return {"places": self.places.tolist(), "rows": base64.b64encode(sink.getvalue()).decode()}

    @classmethod
    def restored(cls, kind: Kind, state: Mapping[str, Any]) -> Held:
        """Return the rows of which `snapshot` gave the state."""
        with pa.ipc.open_stream(base64.b64decode(state["rows"])) as reader:
            data = reader.read_next_batch()
        return cls(kind, np.array(state["places"], np.int64), data)
