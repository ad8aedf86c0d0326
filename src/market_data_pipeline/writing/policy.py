"""How long to wait before trying again, and how much to write at once."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from market_data_core.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """How long to wait after so many failures in a row: twice as long each time, up to a limit.

    Attributes:
        initial_s: After the first failure, seconds.
        max_s: At most, seconds.
        jitter: The part of it, 0 to 1, that is up to chance, so that many do not come back at the same moment.
    """

    initial_s: float = 0.5
    max_s: float = 60.0
    jitter: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.initial_s <= self.max_s < float("inf") or not 0 <= self.jitter <= 1:
            raise ConfigurationError(
                f"backoff: initial_s {self.initial_s} is to be above 0 and at most max_s {self.max_s}, "
                f"jitter {self.jitter} 0 to 1"
            )

    def delay_s(self, failures: int, random: Random) -> float:
        """Return the seconds to wait after `failures`, at least 1, in a row."""
        longest = min(self.max_s, self.initial_s * 2.0 ** min(failures - 1, 60))
        return longest * (1 - self.jitter * random.random())


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPolicy:
    """How much is written in one commit.

    Attributes:
        rows: At the latest with so many rows waiting for a table,
        size_bytes: so many bytes,
        linger_s: or after so long since the first of them, seconds.
    """

    rows: int = 64 * 1024
    size_bytes: int = 64 << 20
    linger_s: float = 0.05

    def __post_init__(self) -> None:
        if self.rows < 1 or self.size_bytes < 1 or not 0 <= self.linger_s < float("inf"):
            raise ConfigurationError(
                f"batch policy: rows {self.rows} and size_bytes {self.size_bytes} are to be at least 1, "
                f"linger_s {self.linger_s} at least 0"
            )
