"""Which DBN files are read, and their bytes."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import zstandard

from market_data_core.errors import ConfigurationError, SourceError
from market_data_pipeline.source.replay.files import expand, translated

_NAME: Final = re.compile(r"\.(dbn(\.frag)?(\.zst)?|dbz)$", re.IGNORECASE)
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
# The legacy format begins with a skippable frame of zstd, which nothing else here does.
_LEGACY: Final = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")
_PIECE_BYTES: Final = 16 << 10  # small: what a piece unpacks to is lost if there is damage in it


@dataclass(frozen=True, slots=True, kw_only=True)
class DbnFile:
    """One file.

    Attributes:
        path: Where it is.
        source_id: ``file:<32 hex digits of its SHA-256>:dbn``.
        size_bytes: On disk.
        modified_ns: Its time stamp when it was hashed.
    """

    path: Path
    source_id: str
    size_bytes: int
    modified_ns: int


def is_dbn(path: str | Path) -> bool:
    """Return whether a path is DBN's by name: a file, whether it is there or not, or a folder or glob that finds one.

    Files of the legacy format (``.dbz``) count, so that they are refused with the reason and not taken for others.
    """
    if Path(path).is_dir():
        return any(_NAME.search(f.name) for f in expand(path)[0])
    return any(_NAME.search(p) for p in (str(path), *glob.iglob(str(path), recursive=True)))  # noqa: PTH207  as expand


def is_fragment(path: Path) -> bool:
    """Return whether a file is, by name, a piece of a DBN stream without the metadata at its beginning."""
    return ".frag" in path.suffixes


def find_files(paths: Sequence[str | Path]) -> list[DbnFile]:
    """Return the files that paths stand for; one that is there twice, by content, is returned once.

    Args:
        paths: Files, folders (with all their subfolders) and globs; of the last two only what is DBN by name.

    Raises:
        ConfigurationError: There is none.
        SourceError: One cannot be read.
    """
    found: dict[str, DbnFile] = {}
    for path in paths:
        files, named = expand(path)
        if not named:
            files = [f for f in files if _NAME.search(f.name)]
            if not files:
                raise ConfigurationError(f"no file at {str(path)!r} is a DBN file: .dbn, .dbn.zst, .dbn.frag")
        for file in files:
            made = _hashed(file)
            found.setdefault(made.source_id, made)
    if not found:
        raise ConfigurationError("databento source needs at least one file: paths is empty")
    return list(found.values())


def _hashed(path: Path) -> DbnFile:
    with translated(str(path)), path.open("rb") as file:
        status = os.fstat(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:32]
    return DbnFile(path=path, source_id=f"file:{digest}:dbn", size_bytes=status.st_size, modified_ns=status.st_mtime_ns)


class DbnBytes:
    """The unpacked bytes of one file, in order. Close it.

    Damage that only the checksum at the end of a zstd frame shows is found there, behind the bytes of that frame.

    Attributes:
        damage: What is wrong behind the bytes read so far, once `read` has come to it; None while nothing is known.

    Raises:
        SourceError: The file cannot be opened, is empty, of the legacy format, or has changed since it was hashed.
    """

    def __init__(self, file: DbnFile) -> None:
        self._file = file
        self._unpacked = bytearray()
        self.damage: SourceError | None = None
        place = str(file.path)
        with translated(place), ExitStack() as stack:
            self._raw = stack.enter_context(file.path.open("rb"))
            if os.fstat(self._raw.fileno()).st_mtime_ns != file.modified_ns:
                raise SourceError(f"{place} has changed since the replay began")
            magic = self._raw.read(4)
            self._raw.seek(0)
            if not magic:
                raise SourceError(f"{place} is empty")
            if _LEGACY.fullmatch(magic) or file.path.suffix.lower() == ".dbz":
                raise SourceError(
                    f"{place} is of Databento's legacy format DBZ, which is not read: convert it with Databento's "
                    "command line tool (dbn FILE.dbz --output FILE.dbn), or download it again as DBN"
                )
            self._pieces = self._unzstd() if magic == _ZSTD else self._plain()
            self._stack = stack.pop_all()

    @property
    def consumed_bytes(self) -> int:
        """How much of the file's size on disk has been read."""
        return self._file.size_bytes if self._raw.closed else self._raw.tell()

    def read(self, size_bytes: int) -> bytes:
        """Return so many bytes; fewer only at the end and before damage, of which `damage` then says what it is."""
        try:
            with translated(str(self._file.path)):
                while len(self._unpacked) < size_bytes and self.damage is None:
                    piece = next(self._pieces, None)
                    if piece is None:
                        break
                    self._unpacked += piece
        except SourceError as exc:
            self.damage = exc
        data = bytes(self._unpacked[:size_bytes])
        del self._unpacked[:size_bytes]
        return data

    def close(self) -> None:
        """Close the file. May be called twice."""
        self._stack.close()

    def _plain(self) -> Iterator[bytes]:
        while piece := self._raw.read(_PIECE_BYTES):
            yield piece

    def _unzstd(self) -> Iterator[bytes]:
        unpacking: zstandard.ZstdDecompressionObj | None = None
        while piece := self._raw.read(_PIECE_BYTES):
            while piece:
                unpacking = unpacking or zstandard.ZstdDecompressor().decompressobj()
                try:
                    unpacked = unpacking.decompress(piece)
                except zstandard.ZstdError as exc:
                    raise SourceError(
                        f"{self._file.path} is damaged: what is compressed near byte {self._raw.tell()} "
                        f"cannot be unpacked: {exc}"
                    ) from exc
                # A file may be several frames, one behind the other.
                piece = b""
                if unpacking.eof:
                    piece, unpacking = unpacking.unused_data, None
                yield unpacked
        if unpacking is not None:
            raise SourceError(f"{self._file.path} is cut off: it ends at byte {self._raw.tell()} inside a zstd frame")
