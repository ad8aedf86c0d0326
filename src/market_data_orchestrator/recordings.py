"""Recorded files of any sort as sources: which reads them, what there is to read, and how far it is."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from market_data_core.errors import ConfigurationError
from market_data_core.protocols import BatchSource

if TYPE_CHECKING:
    from market_data_pipeline.source.captures import CaptureSource
    from market_data_pipeline.source.databento import DatabentoSource
    from market_data_pipeline.source.replay import ReplaySource

Reader = Literal["replay", "databento", "captures"]
READERS: Final[tuple[Reader, ...]] = ("replay", "databento", "captures")
_FILES_PARAMS: Final = ("files_total", "files_empty", "rows_rejected", "rows_read", "bytes_total", "bytes_read")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """A file, or member of one, that is to be read.

    Attributes:
        path: Where it is.
        source_id: Its sequence in the log, known by its content.
        whole: It holds several symbols and is stored whole or not at all.
    """

    path: Path
    source_id: str
    whole: bool


def recorded_source(params: Mapping[str, Any], done: Collection[str]) -> BatchSource:
    """Make the source that reads recorded files.

    Args:
        params: ``paths``, and where given ``reader``, ``layout``, ``symbols`` and ``speed``.
        done: Source ids that are stored to their end.

    Raises:
        ConfigurationError: Nothing to replay there, or what is asked for does not fit the files.
    """
    paths = [Path(p) for p in params["paths"]]
    reader = params.get("reader") or _reader_of(paths)
    symbols, speed = params.get("symbols"), float(params.get("speed", 0.0))
    if reader not in READERS:
        raise ConfigurationError(f"there is no reader {reader!r} of recordings; there are: {', '.join(READERS)}")
    ReplaySource, DatabentoSource, CaptureSource = _classes()  # noqa: N806  classes they are
    if reader == "replay":
        return ReplaySource(paths, params.get("layout"), symbols=symbols, speed=speed, done=done)
    if params.get("layout"):
        raise ConfigurationError(f"files that {reader} reads say themselves what is in them: leave out the layout")
    if reader == "databento":
        return DatabentoSource(paths, symbols=symbols, speed=speed, done=done)
    if speed:
        raise ConfigurationError("captures are replayed as fast as they are taken: leave out the speed")
    return CaptureSource(paths, symbols=symbols)


# Loaded with the first job: a service that replays nothing need not carry them.
def _classes() -> tuple[type[ReplaySource], type[DatabentoSource], type[CaptureSource]]:
    from market_data_pipeline.source.captures import CaptureSource  # noqa: PLC0415
    from market_data_pipeline.source.databento import DatabentoSource  # noqa: PLC0415
    from market_data_pipeline.source.replay import ReplaySource  # noqa: PLC0415

    return ReplaySource, DatabentoSource, CaptureSource


def _reader_of(paths: Sequence[Path]) -> Reader:
    from market_data_pipeline.source.databento import is_dbn  # noqa: PLC0415  as above

    dbn = [path for path in paths if is_dbn(path)]
    if dbn and len(dbn) < len(paths):
        other = next(path for path in paths if path not in dbn)
        raise ConfigurationError(f"{dbn[0]} is a Databento file and {other} is not: replay them one after the other")
    return "databento" if dbn else "replay"


def recordings(source: BatchSource) -> list[Recording]:
    """Return what a source of `recorded_source` will read. Files are hashed for it, so it takes time the first time.

    Raises:
        ConfigurationError: There is nothing to read, or a file that is not of a known form.
        SourceError: A file cannot be read.
    """
    ReplaySource, DatabentoSource, CaptureSource = _classes()  # noqa: N806
    if isinstance(source, ReplaySource):
        return [
            Recording(path=path, source_id=source_id, whole=layout.symbol.column is not None)
            for path, layout, source_id, _ in source.plan()
        ]
    if isinstance(source, DatabentoSource):
        return [Recording(path=path, source_id=source_id, whole=True) for path, _, source_id, _ in source.plan()]
    if isinstance(source, CaptureSource):
        return [Recording(path=file.path, source_id=file.source_id, whole=True) for file in source.plan()]
    raise ConfigurationError(f"{source.name} reads no recordings")


def progress_of(source: BatchSource) -> dict[str, Any]:
    """Return how far a source is, as plain values; what it does not say is 0."""
    ReplaySource, DatabentoSource, CaptureSource = _classes()  # noqa: N806
    if isinstance(source, ReplaySource | DatabentoSource):
        return asdict(source.progress)
    found: dict[str, Any] = dict.fromkeys(_FILES_PARAMS, 0)
    if isinstance(source, CaptureSource):
        found |= {"files_total": len(source.plan()), "rows_read": source.lines, "rows_rejected": source.malformed}
    return found
