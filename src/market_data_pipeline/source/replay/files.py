"""Which files a replay reads, what they are, and their bytes."""

from __future__ import annotations

import glob
import gzip
import hashlib
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, Final, cast

from market_data_core.errors import ConfigurationError, SourceError
from market_data_pipeline.source.replay.contracts import Contract, check_underlying, contract_in_path
from market_data_pipeline.source.replay.foreign import owner_of
from market_data_pipeline.source.replay.layout import Format, Layout, packaged_layouts
from market_data_pipeline.source.replay.times import midnight_ns

_HASH_BYTES: Final = 1 << 20
_ENCRYPTED: Final = 0x1  # bit of a zip member's flags


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One sequence of rows: a file, one member of a zip, or all members of a zip if its layout joins them.

    Attributes:
        path: The file.
        member: The member's name; None if the file is no zip, or its members are joined.
        layout: How it is to be read.
        format: Which of the layout's formats it has.
        source_id: ``file:<32 hex digits of the file's SHA-256>[#member]:<layout>``; the member is named if the zip has
            several of them.
        size_bytes: On disk, so compressed where it is.
        symbol: The symbol of all rows; None if they do not have one and the same.
        underlying: If the symbols are of option contracts, of what.
        contract: The option contract that all rows are about; None if they are not about one and the same.
        midnight: What `times.midnight_ns` gives for the day in the path; None where the layout needs none.
        modified_ns: The file's time stamp when it was hashed.
        sections: The members that are joined, by name. Their source ids only say where a line was found.
    """

    path: Path
    member: str | None
    layout: Layout
    format: Format
    source_id: str
    size_bytes: int
    symbol: str | None
    underlying: str | None
    contract: Contract | None
    midnight: int | None
    modified_ns: int
    sections: tuple[Part, ...] = ()

    @property
    def place(self) -> str:
        """Names it in errors."""
        return _place(self.path, self.member)


def _place(path: Path, member: str | None) -> str:
    return f"{path}/{member}" if member else str(path)


@contextmanager
def translated(place: str) -> Iterator[None]:
    """Raise what libraries say of files that are not what they claim to be as `SourceError` of that place."""
    try:
        yield
    except NotImplementedError as exc:
        raise SourceError(f"{place} is compressed in a way that cannot be read: {exc}") from exc
    except RuntimeError as exc:
        raise SourceError(f"{place} cannot be read: {exc}") from exc
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as exc:
        raise SourceError(f"{place} cannot be read, it may be damaged: {exc}") from exc


def expand(path: str | Path) -> tuple[list[Path], bool]:
    """Return the files a path stands for, sorted, and whether it named one file and meant just that.

    Args:
        path: A file, a folder (read with all its subfolders) or a glob (``**`` spans folders).

    Raises:
        ConfigurationError: There is nothing there.
    """
    here = Path(path)
    if here.is_dir():
        found = [Path(folder) / name for folder, _, names in os.walk(here) for name in names]
        return sorted(found), False
    if here.exists():
        return [here], True
    found = [Path(p) for p in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207  takes absolute patterns
    if not found:
        raise ConfigurationError(f"nothing to replay at {str(path)!r}: no such file or folder, and no file fits it")
    inside = [f for p in found for f in (expand(p)[0] if p.is_dir() else [p])]
    return list(dict.fromkeys(inside)), False


def detect_layout(path: str | Path) -> Layout:
    """Return the packaged layout of a file, by its name and, in a zip, the names of its members.

    Raises:
        ConfigurationError: None fits, or more than one; lists those there are.
        SourceError: It is a zip that cannot be read.
    """
    fitting = _fitting(Path(path), _members(Path(path)))
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        _refuse_foreign(Path(path))
    known = "; ".join(f"{name} ({', '.join(x.files)})" for name, x in packaged_layouts().items())
    problem = f"fits several layouts ({', '.join(x.name for x in fitting)})" if fitting else "fits no known layout"
    raise ConfigurationError(f"{path} {problem}; name one with layout=. Known: {known}")


def _refuse_foreign(path: Path) -> None:
    if owner := owner_of(path):
        raise ConfigurationError(f"{path} is {owner}; replay reads files that a layout describes")


def detected(path: Path) -> bool:
    """Return whether at least one packaged layout fits a file.

    Raises:
        SourceError: It is called like a zip of ours and cannot be read.
    """
    named = any(layout.matches_file(path) for layout in packaged_layouts().values())
    return named and bool(_fitting(path, _members(path)))


def _fitting(path: Path, members: Sequence[zipfile.ZipInfo]) -> list[Layout]:
    by_name = [layout for layout in packaged_layouts().values() if layout.matches_file(path)]
    if path.suffix.lower() != ".zip":
        return by_name
    return [x for x in by_name if any(x.matches_member(PurePosixPath(m.filename).name) for m in members)]


def _members(path: Path) -> list[zipfile.ZipInfo]:
    if path.suffix.lower() != ".zip":
        return []
    with translated(str(path)), zipfile.ZipFile(path) as archive:
        return sorted((m for m in archive.infolist() if not m.is_dir()), key=lambda m: m.filename)


def find_parts(path: Path, layout: Layout | None) -> list[Part]:
    """Return the parts of one file, sorted by member.

    Args:
        path: The file.
        layout: How to read it; None to detect.

    Raises:
        ConfigurationError: No layout fits, or the path lacks the symbol or day that the layout takes from it.
        SourceError: The file cannot be read.
    """
    if layout is not None:
        _refuse_foreign(path)
    chosen = layout or detect_layout(path)
    members = _members(path)
    fitting = [m for m in members if chosen.matches_member(PurePosixPath(m.filename).name)]
    if members and not fitting and layout is not None:
        # The caller says what this is, so members go by their ending alone.
        fitting = [m for m in members if m.filename.lower().endswith(tuple("." + f for f in layout.format))]
    if path.suffix.lower() == ".zip" and not fitting:
        raise ConfigurationError(f"{path} has no member that layout {chosen.name} describes")
    with translated(str(path)):
        status = path.stat()
        digest = _digest(path)
    parts = []
    entries: Sequence[zipfile.ZipInfo | None] = fitting or [None]
    for info in entries:
        named = f"#{info.filename}" if info and (len(fitting) > 1 or chosen.joined) else ""
        source_id = f"file:{digest}{named}:{chosen.name}"
        parts.append(_part(path, info, chosen, source_id=source_id, status=status))
    return [_joined(parts, source_id=f"file:{digest}:{chosen.name}")] if chosen.joined and fitting else parts


def _part(path: Path, info: zipfile.ZipInfo | None, layout: Layout, *, source_id: str, status: os.stat_result) -> Part:
    member = info.filename if info else None
    if info and info.flag_bits & _ENCRYPTED:
        raise SourceError(f"{_place(path, member)} is encrypted")
    place = _place(path.absolute(), member).replace(os.sep, "/")
    symbol, underlying, contract = _symbol(layout, place), None, None
    if layout.contract:
        symbol, underlying = None, symbol or ""
        check_underlying(underlying, place)
        if layout.contract.path:
            contract = contract_in_path(layout.contract, underlying, place)
            symbol = contract.symbol
    return Part(
        path=path,
        member=member,
        layout=layout,
        format=_format(layout, member or path.name),
        source_id=source_id,
        size_bytes=info.compress_size if info else status.st_size,
        symbol=symbol,
        underlying=underlying,
        contract=contract,
        midnight=_midnight(layout, place),
        modified_ns=status.st_mtime_ns,
    )


def _joined(parts: Sequence[Part], *, source_id: str) -> Part:
    if len({p.midnight for p in parts}) > 1:
        raise ConfigurationError(f"{parts[0].path} is of several days; layout {parts[0].layout.name} joins its members")
    return replace(
        parts[0],
        member=None,
        source_id=source_id,
        size_bytes=sum(p.size_bytes for p in parts),
        symbol=None,
        underlying=None,
        contract=None,
        sections=tuple(parts),
    )


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_HASH_BYTES):
            digest.update(piece)
    return digest.hexdigest()[:32]


def _format(layout: Layout, name: str) -> Format:
    bare = name.lower().removesuffix(".gz")
    by_ending = [f for f in layout.format if bare.endswith("." + f)]
    if not by_ending and len(layout.format) > 1:
        raise ConfigurationError(f"{name} does not end in one of {', '.join(layout.format)}, so its format is unknown")
    return (by_ending or list(layout.format))[0]


def _symbol(layout: Layout, place: str) -> str | None:
    if layout.symbol.column is not None:
        return None
    symbol = layout.symbol.constant or layout.symbol.find(place)
    if symbol is None:
        raise ConfigurationError(f"{place} does not show the symbol that layout {layout.name} takes from the path")
    return symbol.upper()


def _midnight(layout: Layout, place: str) -> int | None:
    if not layout.date.path:
        return None
    day = layout.date.find(place)
    if day is not None:
        try:
            return midnight_ns(day)
        except ConfigurationError as exc:
            raise ConfigurationError(f"{place}: {exc.message}") from exc
    if layout.time.unit.since_midnight:
        raise ConfigurationError(f"{place} does not show the day that layout {layout.name} takes from the path")
    return None


class PartBytes:
    """The bytes of one part, decompressed as they are read. Close it.

    Attributes:
        consumed_bytes: How much of the part's size on disk has been read; may be looked at from any thread.

    Raises:
        SourceError: The file cannot be read, or is not the one that was hashed.
    """

    def __init__(self, part: Part) -> None:
        self._part = part
        self._place = part.place
        self._stack = ExitStack()
        self._archive: zipfile.ZipFile | None = None
        self._read_bytes = 0
        self.consumed_bytes = 0
        with translated(part.place), ExitStack() as stack:
            self._raw = stack.enter_context(part.path.open("rb"))
            if os.fstat(self._raw.fileno()).st_mtime_ns != part.modified_ns:
                raise SourceError(f"{part.path} has changed since the replay began")
            self._whole_bytes, self._stream = self._open(stack)
            self._stack = stack.pop_all()

    def _open(self, stack: ExitStack) -> tuple[int, IO[bytes]]:
        members = [p.member for p in self._part.sections or (self._part,) if p.member is not None]
        if members:
            self._archive = archive = stack.enter_context(zipfile.ZipFile(self._raw))
            whole_bytes = sum(archive.getinfo(m).file_size for m in members)
            return whole_bytes, stack.enter_context(archive.open(members[0]))
        if self._part.path.suffix.lower() == ".gz":
            unpacking = gzip.GzipFile(fileobj=self._raw)
            stack.callback(unpacking.close)
            return 0, cast("IO[bytes]", unpacking)
        return 0, self._raw

    def enter(self, section: Part) -> None:
        """Go to the start of one of the part's sections.

        Raises:
            SourceError: It cannot be read.
        """
        if self._archive is None or section.member is None:
            raise SourceError(f"{self._part.place} has no sections")
        self._place = section.place
        with translated(self._place):
            self._stream.close()
            self._stream = self._archive.open(section.member)

    def read(self, size_bytes: int) -> bytes:
        """Return so many bytes, fewer only at the end."""
        with translated(self._place):
            pieces = []
            while size_bytes > 0 and (piece := self._stream.read(size_bytes)):
                pieces.append(piece)
                size_bytes -= len(piece)
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._read_bytes += len(data)
        if self._archive is None:
            self.consumed_bytes = min(self._raw.tell(), self._part.size_bytes)
        else:
            # A zip does not say how far it is into a member, so compression is taken as even.
            self.note(self._read_bytes / max(self._whole_bytes, 1))
        return data

    def note(self, fraction: float) -> None:
        """Say how much of the part, 0 to 1, has been read through `seekable`."""
        self.consumed_bytes = int(self._part.size_bytes * fraction)

    def seekable(self) -> IO[bytes]:
        """Return the bytes as a file that can be read anywhere; a compressed part is unpacked into a temporary one."""
        if self._stream is self._raw:
            return self._raw
        with translated(self._part.place):
            unpacked = cast("IO[bytes]", tempfile.TemporaryFile())  # noqa: SIM115  closed with the part
            self._stack.callback(unpacked.close)
            shutil.copyfileobj(self._stream, unpacked, _HASH_BYTES)
            unpacked.seek(0)
        return unpacked

    def close(self) -> None:
        """Close the file. May be called twice."""
        if self._archive is not None:
            self._stream.close()
        self._stack.close()
