"""What a power cut leaves of a data directory, in the strictest reading of what `fsync` promises.

A file keeps the bytes it had when it was last synced, and none before that. A folder keeps the names it had when it was
last synced. Whatever happened since is gone: bytes, creations, renames and removals alike.

In the process that is to lose its power, before it opens anything::

    powerloss.install(data_dir, shadow_dir)

In its parent, once the process has been killed::

    powerloss.restore(shadow_dir, data_dir)             # all that was not synced is gone
    powerloss.restore(shadow_dir, data_dir, seed=7)     # each unsynced change survives, or not, or in part

The shadow is written by the observed process inside each sync, so it is whole however the process ends. Several
processes over one data directory may each install the same shadow, and one that was killed may be started again over
the same data and shadow: its power was not cut. Files named ``state.db*`` are SQLite's, which syncs by itself: they
come back as they are at the cut.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from market_data_core import disk

TRUSTED = "state.db"
_SAME_BYTES = 4096


def install(data_dir: Path, shadow_dir: Path) -> Shadow:
    """Note from now on what each sync of this process makes durable below `data_dir`.

    What is there already, and not yet in the shadow, counts as durable. `shadow_dir` lies outside of `data_dir`.
    """
    shadow = Shadow(data_dir, shadow_dir)
    disk.observe(shadow)
    return shadow


def restore(shadow_dir: Path, data_dir: Path, *, seed: int | None = None) -> None:
    """Make `data_dir` what the power cut left of it, and forget the shadow.

    Args:
        shadow_dir: As given to `install`.
        data_dir: As given to `install`; nobody uses it any more.
        seed: None for the strict reading; else every unsynced change is kept, dropped or kept in part, by chance.
    """
    left = _Left(data_dir.resolve(), shadow_dir, None if seed is None else random.Random(seed))
    rebuilt = data_dir.with_name(data_dir.name + ".rebuilt")
    rebuilt.mkdir()
    left.folder(data_dir.resolve().stat().st_ino, rebuilt)
    for found in sorted(data_dir.rglob(f"{TRUSTED}*")):
        target = rebuilt / found.relative_to(data_dir)
        if target.parent.is_dir():
            shutil.copyfile(found, target)
    # The folder itself stays: it may be a mount point, or somebody's working directory.
    for entry in data_dir.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    for entry in rebuilt.iterdir():
        shutil.move(entry, data_dir / entry.name)
    rebuilt.rmdir()
    shutil.rmtree(shadow_dir)


class Shadow:
    """The observer of `market_data_core.disk` that keeps what is durable.

    Files and folders are known by inode, so names may change between syncs. While this process lives, every inode it
    has met is held open: its number cannot pass to another file.
    """

    def __init__(self, data_dir: Path, shadow_dir: Path) -> None:
        self._root = data_dir.resolve()
        self._store = _Store(shadow_dir)
        self._lock = threading.Lock()
        self._pins: dict[int, int] = {}
        _allow_many_files()
        if self._store.make():
            self._take_over(self._root)
        else:
            self._meet_again()

    def __call__(self, what: Literal["file", "dir"], path: Path) -> None:
        path = Path(os.path.abspath(path))  # noqa: PTH100  resolve() would follow a link in the last part
        if path != self._root and self._root not in path.parents:
            return
        with self._lock:
            if what == "file":
                self._pin(path)
                self._store.keep_bytes(path)
            else:
                self._keep_names(path)

    def _take_over(self, folder: Path) -> None:
        for entry in os.scandir(folder):
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                self._take_over(path)
            elif self._pin(path):
                self._store.keep_bytes(path)
        self._keep_names(folder)

    def _meet_again(self) -> None:
        # The process before was killed. What it had removed without syncing may still come back after a power cut,
        # but its inode is free for others by now: it lives on under a number that no file has.
        known = self._store.known()
        there = {self._root.stat().st_ino}
        for path in self._root.rglob("*"):
            if self._pin(path):
                there.add(path.stat(follow_symlinks=False).st_ino)
        self._store.renumber(known - there)

    def _keep_names(self, folder: Path) -> None:
        entries = {e.name: (e.inode(), e.is_dir(follow_symlinks=False)) for e in os.scandir(folder)}
        for name in list(entries):
            if not self._pin(folder / name):
                del entries[name]
        gone = self._store.keep_names(folder, entries)
        for inode in gone:
            fd = self._pins.get(inode)
            if fd is not None and os.fstat(fd).st_nlink == 0:
                self._store.forget(inode)
                os.close(self._pins.pop(inode))

    def _pin(self, path: Path) -> bool:
        try:
            inode = path.stat(follow_symlinks=False).st_ino
            if inode not in self._pins:
                self._pins[inode] = os.open(path, os.O_PATH | os.O_NOFOLLOW)
        except FileNotFoundError:
            # Gone between listing and looking: another thread's doing, and not synced either.
            return False
        return True


@dataclass(frozen=True)
class _Store:
    # contents/<inode> is what a file held at its last sync, names/<inode> what a folder did.
    root: Path

    def make(self) -> bool:
        (self.root / "contents").mkdir(parents=True, exist_ok=True)
        fresh = not (self.root / "names").is_dir()
        (self.root / "names").mkdir(exist_ok=True)
        return fresh

    def bytes_of(self, inode: int) -> Path:
        return self.root / "contents" / str(inode)

    def names_of(self, inode: int) -> Path:
        return self.root / "names" / str(inode)

    def read_names(self, inode: int) -> dict[str, tuple[int, bool]]:
        kept = self.names_of(inode)
        return {n: (i, d) for n, (i, d) in json.loads(kept.read_text()).items()} if kept.exists() else {}

    def known(self) -> set[int]:
        return {int(p.name) for p in self.root.glob("*/*") if p.name.isdigit()}

    def renumber(self, inodes: set[int]) -> None:
        lowest = min((int(p.name) for p in self.root.glob("*/-*")), default=0)
        moved = {inode: lowest - n for n, inode in enumerate(sorted(inodes), 1)}
        for kept in self.root.glob("names/*"):
            # Others are half-written: their process was killed before they got their name.
            if kept.name.lstrip("-").isdigit():
                names = json.loads(kept.read_text())
                kept.write_text(json.dumps({name: (moved.get(i, i), d) for name, (i, d) in names.items()}))
        for inode, number in moved.items():
            for kept in self.root.glob(f"*/{inode}"):
                kept.rename(kept.with_name(str(number)))

    def keep_names(self, folder: Path, entries: dict[str, tuple[int, bool]]) -> set[int]:
        inode = folder.stat().st_ino
        before = self.read_names(inode)
        kept = self.names_of(inode)
        fresh = kept.with_name(f"{inode}.{os.getpid()}.{threading.get_ident()}")
        fresh.write_text(json.dumps(entries))
        fresh.replace(kept)
        return {i for i, _ in before.values()} - {i for i, _ in entries.values()}

    def keep_bytes(self, path: Path) -> None:
        kept = self.bytes_of(path.stat().st_ino)
        with path.open("rb") as source:
            at = _common(source.fileno(), kept)
            if at is None:
                fresh = kept.with_name(f"{kept.name}.{os.getpid()}.{threading.get_ident()}")
                with fresh.open("wb") as target:
                    shutil.copyfileobj(source, target)
                fresh.replace(kept)
                return
            source.seek(at)
            with kept.open("r+b") as target:
                target.truncate(at)
                target.seek(at)
                shutil.copyfileobj(source, target)

    def forget(self, inode: int) -> None:
        self.bytes_of(inode).unlink(missing_ok=True)
        self.names_of(inode).unlink(missing_ok=True)


def _common(fd: int, kept: Path) -> int | None:
    # How much of a file the shadow has already, as far as its end can tell: logs grow, and copying them whole at each
    # sync would take for ever. None: nothing can be told.
    if not kept.exists():
        return None
    size = min(kept.stat().st_size, os.fstat(fd).st_size)
    start = max(0, size - _SAME_BYTES)
    with kept.open("rb") as held:
        held.seek(start)
        return size if os.pread(fd, size - start, start) == held.read(size - start) else None


def _allow_many_files() -> None:
    import resource  # noqa: PLC0415  the module must import where there is none

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@dataclass
class _Left:
    # Builds what is left, from the shadow and, where chance has a say, from what really lies there.
    data_dir: Path
    shadow_dir: Path
    chance: random.Random | None
    real: dict[int, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store = _Store(self.shadow_dir)
        self.real = {p.stat().st_ino: p for p in self.data_dir.rglob("*") if not p.is_symlink()}
        self.real[self.data_dir.stat().st_ino] = self.data_dir

    def folder(self, inode: int, target: Path) -> None:
        for name, (child, is_dir) in sorted(self._names(inode).items()):
            if name.startswith(TRUSTED):
                continue
            if is_dir:
                (target / name).mkdir()
                self.folder(child, target / name)
            else:
                (target / name).write_bytes(self._bytes(child))

    def _names(self, inode: int) -> dict[str, tuple[int, bool]]:
        names = self.store.read_names(inode)
        if self.chance is None or inode not in self.real:
            return names
        now = {e.name: (e.inode(), e.is_dir(follow_symlinks=False)) for e in os.scandir(self.real[inode])}
        for name in sorted(names.keys() | now.keys()):
            if names.get(name) != now.get(name) and self.chance.random() < 0.5:
                if name in now:
                    names[name] = now[name]
                else:
                    del names[name]
        return names

    def _bytes(self, inode: int) -> bytes:
        kept = self.store.bytes_of(inode)
        synced = kept.read_bytes() if kept.exists() else b""
        if self.chance is None or inode not in self.real:
            return synced
        now = self.real[inode].read_bytes()
        choice = self.chance.randrange(5)
        if choice == 0 or now == synced:
            return synced
        if choice == 1 or not now.startswith(synced):
            return now
        # Part of what was added reached the disk.
        cut = self.chance.randrange(len(synced), len(now) + 1)
        if choice == 2:
            return now[:cut]
        # Its size did too, and what is missing reads as zeros: the end, or a piece further up, for pages are written in
        # any order.
        end = len(now) if choice == 3 else self.chance.randrange(cut, len(now) + 1)
        return now[:cut] + b"\0" * (end - cut) + now[end:]
