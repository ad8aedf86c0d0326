"""The files that rows come from and go to: formats, compression, ``-``, and names that appear when all is in."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import secrets
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, Final, Self, cast

from market_data_core import disk
from market_data_core.errors import ConfigurationError, SchemaValidationError, TemporaryUnavailable

STANDARD: Final = "-"
"""Names standard input or output."""

_GZIP: Final = b"\x1f\x8b"
_BLOCK: Final = 1 << 20
# Level 6 takes three times as long for a tenth less.
_LEVEL: Final = 3


class Format(StrEnum):
    """How rows are written down."""

    CSV = "csv"
    NDJSON = "ndjson"
    PARQUET = "parquet"


_BY_SUFFIX: Final = {
    ".csv": Format.CSV,
    ".ndjson": Format.NDJSON,
    ".jsonl": Format.NDJSON,
    ".json": Format.NDJSON,
    ".parquet": Format.PARQUET,
}


def format_of(name: str, given: Format | str | None = None) -> Format:
    """Return the format of a file: the one that is given, else the one its name says, else CSV for ``-``.

    Raises:
        ConfigurationError: Neither says one; names those there are.
    """
    known = ", ".join(Format)
    if given is not None:
        if given not in list(Format):
            raise ConfigurationError(f"there is no format {str(given)!r}; there are {known}")
        return Format(given)
    if name == STANDARD:
        return Format.CSV
    found = _BY_SUFFIX.get(Path(name.lower().removesuffix(".gz")).suffix)
    if found is None:
        raise ConfigurationError(f"the name {name!r} does not say a format; give one of {known}")
    return found


@contextmanager
def writing(name: str, format_: Format) -> Iterator[IO[bytes]]:
    """Give a file to write to; it has its name once everything is in it and durable, and else is gone.

    What exists and is no plain file, such as a pipe, is written to as it is. A name that ends in ``.gz`` is compressed.

    Raises:
        ConfigurationError: There is no such folder, or the name is a folder's.
        TemporaryUnavailable: The disk did not take it, or whoever reads a pipe has gone.
    """
    try:
        if name == STANDARD:
            sys.stdout.flush()
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        elif (path := Path(name).resolve()).exists() and not path.is_file():
            if path.is_dir():
                raise ConfigurationError(f"{name} is a folder")
            with path.open("wb") as pipe:
                yield pipe
        else:
            with _replacing(path) as file, _compressed(file, name, format_) as stream:
                yield stream
    except FileNotFoundError as exc:
        raise ConfigurationError(f"cannot write {name}: there is no folder {Path(name).resolve().parent}") from exc
    except OSError as exc:
        raise TemporaryUnavailable(f"cannot write {name}: {exc.strerror or exc}") from exc


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    # A name of its own for each attempt: two that write the same file must not write into each other.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with os.fdopen(fd, "wb") as file:
            yield file
            file.flush()
            disk.sync_fd(file.fileno(), temporary)
        temporary.replace(path)
        disk.sync_dir(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def _compressed(file: IO[bytes], name: str, format_: Format) -> Iterator[IO[bytes]]:
    if not name.lower().endswith(".gz"):
        yield file
        return
    if format_ is Format.PARQUET:
        raise ConfigurationError(f"{name}: Parquet is compressed within; leave .gz away")
    # Without a time and a name in it, equal rows make equal files.
    with gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=_LEVEL, mtime=0) as packed:
        yield cast("IO[bytes]", packed)


class SourceFile:
    """A file that can be read several times, standard input too, and that knows its content's SHA-256.

    Args:
        name: A path, or ``-``. Compressed content is known by its first bytes, whatever the name.

    Raises:
        ConfigurationError: There is no such file, or it is a folder.
        TemporaryUnavailable: It cannot be read.
    """

    def __init__(self, name: str) -> None:
        self.name = "standard input" if name == STANDARD else name
        self._stack = contextlib.ExitStack()
        self._path = Path(name)
        if name == STANDARD or (self._path.exists() and not self._path.is_file() and not self._path.is_dir()):
            self._path = self._spool(name)
        with self._translated():
            self._seen = _identity(self._path)
            with self._path.open("rb") as file:
                self.compressed = file.read(2) == _GZIP

    def _spool(self, name: str) -> Path:
        # A pipe gives its bytes once; they are checked before the first is stored.
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="mds-")))
        with self._translated(), contextlib.ExitStack() as stack:
            source = sys.stdin.buffer if name == STANDARD else stack.enter_context(Path(name).open("rb"))
            shutil.copyfileobj(source, stack.enter_context((folder / "input").open("wb")), _BLOCK)
        return folder / "input"

    @property
    def path(self) -> Path:
        """Where its bytes lie."""
        return self._path

    def close(self) -> None:
        """Remove what was kept of standard input. May be called twice."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @contextmanager
    def reading(self) -> Iterator[HashingReader]:
        """Give the content, decompressed, from its start.

        Raises:
            SchemaValidationError: Compressed content is damaged or cut off; or it changed since it was first read.
            TemporaryUnavailable: It cannot be read.
        """
        with self._translated(), self._path.open("rb") as file:
            if _identity(self._path) != self._seen:
                raise SchemaValidationError(f"{self.name} changed while it was read")
            with contextlib.ExitStack() as stack:
                stream: Any = stack.enter_context(gzip.GzipFile(fileobj=file)) if self.compressed else file
                yield HashingReader(stream)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (gzip.BadGzipFile, EOFError, zlib.error) as exc:
            raise SchemaValidationError(f"{self.name}: compressed content is damaged or cut off ({exc})") from exc
        except (FileNotFoundError, IsADirectoryError) as exc:
            raise ConfigurationError(f"cannot read {self.name}: {exc.strerror}") from exc
        except OSError as exc:
            raise TemporaryUnavailable(f"cannot read {self.name}: {exc.strerror or exc}") from exc


class HashingReader(io.RawIOBase):
    """A binary file that hashes what is read from it, once, from start to end."""

    def __init__(self, source: IO[bytes]) -> None:
        super().__init__()
        self._source = source
        self._hash = hashlib.sha256()

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes; none at the end."""
        data = self._source.read(size)
        self._hash.update(data)
        return data

    def sha256(self) -> str:
        """Return the SHA-256 of the whole content, reading what is left of it."""
        while self.read(_BLOCK):
            pass
        return self._hash.hexdigest()


def _identity(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns
