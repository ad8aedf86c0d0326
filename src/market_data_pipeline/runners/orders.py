"""What is to run, kept in a file so that it survives a restart."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import TypeAdapter

from market_data_core import disk
from market_data_core.errors import TemporaryUnavailable

LOG = logging.getLogger(__name__)

_OWNER_ONLY: Final = 0o600  # arguments of a source may be secrets


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestOrder:
    """One provider that is to be read.

    Attributes:
        provider: Its name.
        symbols: What of it; empty for its own choice.
        dry_run: Whether nothing is to be written.
        override_params: Arguments of its class that this start sets.
        since_ns: When it was started, UTC nanoseconds since the epoch; a restart does not change it.
        until_ns: When it is to be stopped, likewise; None for never.
    """

    provider: str
    symbols: tuple[str, ...] = ()
    dry_run: bool
    override_params: dict[str, Any] = field(default_factory=dict)
    since_ns: int
    until_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    version: Literal[1]
    running: list[IngestOrder]


_RECORD: Final = TypeAdapter(_Record)


class OrderFile:
    """The orders of one service, replaced as a whole.

    Args:
        path: The file; it need not be there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def save(self, orders: Iterable[IngestOrder]) -> None:
        """Make these the orders, durably.

        Raises:
            TemporaryUnavailable: The file cannot be written; the old ones stand.
        """
        content = json.dumps(asdict(_Record(version=1, running=list(orders))), indent=1)
        try:
            disk.make_dirs(self.path.parent)
            disk.write_atomic(self.path, content.encode(), mode=_OWNER_ONLY)
        except OSError as exc:
            raise TemporaryUnavailable(f"{self.path}: what is running cannot be recorded: {exc.strerror}") from exc

    def load(self) -> list[IngestOrder]:
        """Return the orders there are.

        A file that is damaged is put aside under the ending ``.damaged``, with an error in the log: a service that is
        told nothing starts nothing.

        Raises:
            TemporaryUnavailable: The file cannot be read.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as exc:
            raise TemporaryUnavailable(f"{self.path} cannot be read: {exc.strerror}") from exc
        try:
            return _RECORD.validate_json(content).running
        except ValueError as exc:
            LOG.error("%s is damaged (%s): nothing is resumed", self.path, type(exc).__name__)
            self._put_aside()
            return []

    def _put_aside(self) -> None:
        try:
            self.path.replace(self.path.with_name(self.path.name + ".damaged"))
        except OSError as exc:
            raise TemporaryUnavailable(f"{self.path} is damaged and cannot be put aside: {exc.strerror}") from exc
