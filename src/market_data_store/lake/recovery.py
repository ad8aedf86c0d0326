"""Repair of a table's log after a crash or power cut. In an object store nothing is ever torn.

What `LakeTable.append` has acknowledged is durable: its data files, its commit and every commit before it. So whatever
is torn lies behind the last acknowledged commit, and setting it aside loses nothing that anybody was told of: the
event log still has those rows, and the writer's position says so. Nothing is deleted; it moves to ``_delta_log/_torn``.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from market_data_core import disk
from market_data_core.errors import MarketDataError
from market_data_store.lake.folder import TableFolder, create
from market_data_store.lake.log import LAST_CHECKPOINT, SCRATCH, Action, TableLog, TornCommit
from market_data_store.lake.paths import translated
from market_data_store.places import here

# Staged files of delta-rs and its object store, and ours.
_TEMPORARY: Final = re.compile(r".*\.new|.*\.tmp|.*#\d+")

_LOOKS: Final = 3


def repair(folder: TableFolder) -> list[str]:
    """Make a table readable up to its last whole commit, and all that it then holds durable.

    For the holder of the data directory's lock alone, before anybody writes: a commit that is being made looks torn.

    Returns:
        What was done, one sentence each; empty if nothing had to be.

    Raises:
        MarketDataError: ``LakeDamaged``: the start of the log is gone, which no crash does. Restore the folder.
        TemporaryUnavailable: The storage is away.
    """
    if not isinstance(folder.path, Path):
        return []
    if not folder.log.path.is_dir():
        _refuse_orphans(folder)
        return []
    with translated(f"repairing table {folder.spec.name}"):
        log = folder.log
        for unfinished in folder.path.glob(f"{SCRATCH}*"):
            shutil.rmtree(unfinished)
        done = [*_drop_temporaries(log), *_drop_checkpoints(log)]
        base = max(log.checkpoints(), default=-1)
        if base < 0:
            done += _restore_start(folder)
        done += _cut(log, base)
        if done:
            disk.sync_dir(here(log.path))
            log.forget_durable()
        newest = max([*log.versions(), base])
        if newest >= 0:
            log.make_durable(newest)
    return [f"{folder.spec.name}: {message}" for message in done]


def find_torn(folder: TableFolder) -> str | None:
    """Return why a table's newest commits do not stand, and None where they do. Changes nothing; others may write.

    What is written behind a torn commit is set aside with it, however durable it is.

    Raises:
        TemporaryUnavailable: The storage is away.
    """
    log = folder.log
    if not isinstance(folder.path, Path) or not log.path.is_dir():
        return None
    cause = None
    with translated(f"looking at table {folder.spec.name}"):
        # Upkeep may clean away what we are about to look at; what is torn stays so.
        for _ in range(_LOOKS):
            base = max((v for v in log.checkpoints() if log.is_whole_checkpoint(v)), default=-1)
            _, cause = _standing(log, base)
            if not cause:
                return None
    return cause


def _drop_temporaries(log: TableLog) -> list[str]:
    leftovers = [p for p in here(log.path).iterdir() if p.is_file() and _TEMPORARY.fullmatch(p.name)]
    for path in leftovers:
        path.unlink()
    return [f"removed {len(leftovers)} temporary files from the log"] if leftovers else []


def _drop_checkpoints(log: TableLog) -> list[str]:
    done = []
    for version in log.checkpoints():
        if not log.is_whole_checkpoint(version):
            _set_aside(log, [here(log.checkpoint_path(version))])
            done.append(f"checkpoint {version} is not whole; set aside")
    pointer = log.path / LAST_CHECKPOINT
    if pointer.exists():
        try:
            version = int(json.loads(pointer.read_bytes())["version"])
        except (ValueError, KeyError, TypeError):
            version = -1
        if version not in log.checkpoints():
            pointer.unlink()
            done.append(f"{LAST_CHECKPOINT} named no whole checkpoint; removed")
    return done


def _restore_start(folder: TableFolder) -> list[str]:
    # Version 0 holds nothing but the declaration, so it can be made anew; what follows it cannot.
    log = folder.log
    versions = log.versions()
    if _is_whole(log, 0):
        return []
    if versions and not (versions[0] == 0 or _is_whole(log, 1)):
        raise _damaged(folder, f"its log begins at commit {versions[0]} and has no whole checkpoint")
    if not _is_whole(log, 1):
        _refuse_orphans(folder)
    if 0 in versions:
        _set_aside(log, [here(log.commit_path(0))])
    with tempfile.TemporaryDirectory() as scratch:
        create(Path(scratch), folder.spec)
        content = TableLog(Path(scratch), folder.spec.name).commit_path(0).read_bytes()
    disk.write_atomic(here(log.commit_path(0)), content)
    return ["commit 0 was not whole; made anew from the declaration"]


def _cut(log: TableLog, base: int) -> list[str]:
    whole, cause = _standing(log, base)
    torn = [v for v in log.versions() if v > base and v not in whole]
    if not torn:
        return []
    _set_aside(log, [here(log.commit_path(v)) for v in torn])
    return [f"{cause}; set aside commits {torn[0]} to {torn[-1]} ({len(torn)})"]


# The commits behind a checkpoint that stand, and why the first one that does not does not.
def _standing(log: TableLog, base: int) -> tuple[dict[int, list[Action]], str]:
    later = [v for v in log.versions() if v > base]
    whole: dict[int, list[Action]] = {}
    cause = ""
    for version in range(base + 1, max(later, default=base) + 1):
        try:
            whole[version] = log.actions(version)
        except TornCommit as exc:
            cause = str(exc)
            break
    while (broken := _first_without_data(here(log.folder), whole)) is not None:
        version, cause = broken
        whole = {v: actions for v, actions in whole.items() if v < version}
    return whole, cause


def _first_without_data(folder: Path, commits: dict[int, list[Action]]) -> tuple[int, str] | None:
    # What a later commit replaced may be vacuumed by now.
    removed = {a["remove"]["path"] for actions in commits.values() for a in actions if "remove" in a}
    for version, actions in commits.items():
        for add in (a["add"] for a in actions if "add" in a):
            if add["path"] in removed:
                continue
            path = folder / unquote(add["path"])
            size = path.stat().st_size if path.exists() else None
            if size != add["size"]:
                found = "is missing" if size is None else f"has {size} bytes instead of {add['size']}"
                return version, f"data file {add['path']} of commit {version} {found}"
    return None


def _set_aside(log: TableLog, paths: list[Path]) -> None:
    if not paths:
        return
    aside = here(log.path) / "_torn"
    disk.make_dirs(aside)
    for path in paths:
        taken = len(list(aside.glob(f"{path.name}.*")))
        path.rename(aside / f"{path.name}.{taken}")
    disk.sync_dir(aside)
    disk.sync_dir(aside.parent)


def _is_whole(log: TableLog, version: int) -> bool:
    try:
        log.actions(version)
    except TornCommit:
        return False
    return True


def _refuse_orphans(folder: TableFolder) -> None:
    # The table is durable before its first append, so data without a log means that the log was lost.
    if folder.data_files():
        raise _damaged(folder, "it has data files but no log")


def _damaged(folder: TableFolder, cause: str) -> MarketDataError:
    return MarketDataError(
        f"table {folder.spec.name} in {folder.path}: {cause}; restore its _delta_log folder or move the table away",
        "LakeDamaged",
    )
