"""Where a lake's files lie: in folders of this machine, or in an object store.

`ObjectPath` has as much of a folder and its files as the lake uses, with the names of `pathlib.Path`.

An object is there whole or not at all, and survives a power cut once it is written: there is nothing to sync, no folder
to make, and no torn file to repair. The client is that of delta-rs, so that settings and credentials are found in one
way: ``AWS_ENDPOINT_URL``, ``AWS_REGION``, ``AWS_ACCESS_KEY_ID`` and the like, or the machine's role.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property, total_ordering
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from deltalake.fs import DeltaStorageHandler
from pyarrow import fs

from market_data_core import disk
from market_data_core.addresses import check_store

_ROOT: Final = PurePosixPath()
# A store that does not answer is away; whoever asks tries again by a schedule of its own.
_OPTIONS: Final = {"max_retries": "3", "retry_timeout": "10s", "timeout": "60s", "connect_timeout": "5s"}


class ObjectStore:
    """What lies below one address.

    Args:
        address: Such as ``s3://bucket/prefix``. Credentials do not belong in it.

    Raises:
        ConfigurationError: It names no bucket, or has a user or a query in it.
    """

    def __init__(self, address: str) -> None:
        check_store(address)
        parts = urlsplit(address)
        self.url = f"{parts.scheme.lower()}://{parts.netloc}/{parts.path.strip('/')}".rstrip("/")

    @property
    def options(self) -> Mapping[str, str]:
        """What delta-rs is told besides the environment."""
        return _OPTIONS

    @cached_property
    def files(self) -> fs.FileSystem:
        """The store as Arrow sees it, by keys below the address."""
        return fs.PyFileSystem(DeltaStorageHandler(self.url, dict(_OPTIONS)))


class Stat(NamedTuple):
    """Size in bytes, and when it was written in nanoseconds since the epoch, UTC."""

    st_size: int
    st_mtime_ns: int


@total_ordering
@dataclass(frozen=True, eq=False)
class ObjectPath:
    """A key of an object store, or what begins with it. Methods do what those of `Path` do, and raise OSError as they.

    Attributes:
        store: Where it is.
        key: Below the store's address, without a slash at either end.
        listed: What a listing said of it.
    """

    store: ObjectStore
    key: PurePosixPath = _ROOT
    listed: Stat | None = None

    def __str__(self) -> str:
        return f"{self.store.url}/{self.within}".rstrip("/")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectPath) and str(self) == str(other)

    def __lt__(self, other: ObjectPath) -> bool:
        return str(self) < str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __truediv__(self, name: str) -> ObjectPath:
        return ObjectPath(self.store, self.key / name)

    @property
    def within(self) -> str:
        """The key, which is empty for the store's own address."""
        return str(self.key) if self.key.parts else ""

    @property
    def name(self) -> str:
        """The last part of the key."""
        return self.key.name

    @property
    def parent(self) -> ObjectPath:
        """What it lies in."""
        return ObjectPath(self.store, self.key.parent)

    def is_dir(self) -> bool:
        """Return whether anything lies in it."""
        return any(True for _ in self.iterdir())

    def exists(self) -> bool:
        """Return whether it is an object."""
        return bool(self._info().type == fs.FileType.File)

    def stat(self) -> Stat:
        """Return what is known of the object; of one that was listed, what the listing said."""
        if self.listed is not None:
            return self.listed
        info = self._info()
        if info.type != fs.FileType.File:
            raise FileNotFoundError(f"{self} is not there")
        return _stat(info)

    def iterdir(self) -> Iterator[ObjectPath]:
        """Give what lies in it; nothing if it is not there."""
        for info in self.store.files.get_file_info(fs.FileSelector(self.within, allow_not_found=True)):
            key = PurePosixPath(info.path)
            yield ObjectPath(self.store, key, _stat(info) if info.type == fs.FileType.File else None)

    def glob(self, pattern: str) -> Iterator[ObjectPath]:
        """Give what lies in it under such a name."""
        return (path for path in self.iterdir() if fnmatchcase(path.name, pattern))

    def read_bytes(self) -> bytes:
        """Return the object."""
        with self.store.files.open_input_file(self.within) as file:
            return bytes(file.read())

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Remove the object."""
        if not missing_ok and not self.exists():
            raise FileNotFoundError(f"{self} is not there")
        self.store.files.delete_file(self.within)

    def _info(self) -> fs.FileInfo:
        return self.store.files.get_file_info([self.within])[0]


def _stat(info: fs.FileInfo) -> Stat:
    return Stat(info.size, info.mtime_ns)


Place = Path | ObjectPath
"""Where something of a lake lies."""


class Opened(NamedTuple):
    """A place as Arrow's readers and writers take it."""

    path: str
    filesystem: fs.FileSystem | None


def opened(place: Place) -> Opened:
    """Return how Arrow gets at a place."""
    return Opened(str(place), None) if isinstance(place, Path) else Opened(place.within, place.store.files)


def opened_all(folder: Place, names: list[str]) -> tuple[list[str], fs.FileSystem | None]:
    """Return how Arrow gets at files of a folder, by their names in it."""
    root, filesystem = opened(folder)
    return [f"{root}/{name}" for name in names], filesystem


def storage_options(place: Place) -> dict[str, str] | None:
    """Return what delta-rs is told of a place besides its address."""
    return None if isinstance(place, Path) else dict(place.store.options)


def here(place: Place) -> Path:
    """Return a place of this machine, where files can be torn; an object is not.

    Raises:
        TypeError: It is an object.
    """
    if isinstance(place, Path):
        return place
    raise TypeError(f"{place} is not on this machine")


def make_dirs(place: Place) -> None:
    """Make a folder and its parents, durably."""
    if isinstance(place, Path):
        disk.make_dirs(place)


def sync_file(place: Place) -> None:
    """Make the bytes of a file durable."""
    if isinstance(place, Path):
        disk.sync_file(place)


def sync_dir(place: Place) -> None:
    """Make the names in a folder durable."""
    if isinstance(place, Path):
        disk.sync_dir(place)
