"""What a log is to everything above it, wherever it is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from market_data_core.batch import Instruments, SourceBatch
from market_data_core.protocols import Mark
from market_data_core.schemas import Origin
from market_data_pipeline.log.frames import Record


class EventLog(Protocol):
    """A durable, ordered sequence of records with one writer.

    Positions are sequence numbers; an end position is exclusive. Order is kept per partition, and on one machine
    across all of them.
    """

    @property
    def log_id(self) -> str:
        """Names this log for ever."""
        ...

    @property
    def end(self) -> int:
        """Exclusive end of what was appended."""
        ...

    @property
    def durable_end(self) -> int:
        """Exclusive end of what survives a power cut; consumers read no further."""
        ...

    def sources(self) -> dict[str, int]:
        """Return, by source id, the exclusive end of what was appended."""
        ...

    def append(self, batch: SourceBatch, *, origin: Origin, partition: int = 0) -> int:
        """Append events and return the sequence number of the first, or raise LogFull."""
        ...

    def mark(self, mark: Mark, *, origin: Origin, idle: bool = False) -> int:
        """Append punctuation and return its sequence number."""
        ...

    def control(self, action: str, detail: Mapping[str, Any] | None = None) -> int:
        """Append a control record and return its sequence number."""
        ...

    def barrier(self) -> None:
        """Let operators run up to here."""
        ...

    def wait_durable(self, end: int, timeout_s: float | None = None) -> bool:
        """Wait until everything below `end` is durable; False when the time ran out first."""
        ...

    def trim(self, below: int) -> int:
        """Let go of what no consumer needs any more; return how many segments went."""
        ...

    def close(self, timeout_s: float = 10.0) -> None:
        """Make everything appended durable and let others write."""
        ...


class EventReader(Protocol):
    """One consumer's way through a log."""

    instruments: Instruments
    position: int
    problems: list[str]

    def read(self, max_rows: int = 1 << 18) -> Iterator[Record]:
        """Give durable records in order, from the position on."""
        ...

    def close(self) -> None:
        """Release what reading holds."""
        ...
