"""The verdict on a whole chain: its files are read from the first byte to the last, and nothing else is trusted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from market_data_core.errors import TemporaryUnavailable, ValidationError
from market_data_orchestrator.audit.chain import (
    CHECKPOINT,
    CHECKPOINT_EVERY,
    DAMAGED,
    MAX_LINE_BYTES,
    Head,
    Record,
    first_seq_named,
    list_files,
    parsed,
)
from market_data_orchestrator.audit.checkpoints import SigningKeys

_OPEN_ATTEMPTS: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRecord:
    """The first place where a chain is not as it was written.

    Attributes:
        file: Path of the file.
        line: Line in it, from 1.
        seq: Number that the record there should have.
        why: What is wrong, for people.
    """

    file: str
    line: int
    seq: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of reading a whole chain.

    Attributes:
        ok: True if every record is there and as it was written.
        records: How many hold, up to the first that does not.
        checkpoints: How many of them are checkpoints, their signatures checked.
        unsigned: Records behind the last checkpoint; the noted end of the chain alone vouches for these.
        files: How many files were read.
        torn_bytes: Size of a last line without its end: a crash in mid-write, or one that is being written.
        head: The last record that holds; its hash, kept elsewhere, proves later that nothing before it was changed.
        compared: True if the end was compared with the one noted outside of the files.
        bad: The first bad record; None if there is none.
    """

    ok: bool
    records: int
    checkpoints: int
    unsigned: int
    files: int
    torn_bytes: int
    head: Head
    compared: bool
    bad: BadRecord | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


@dataclass(slots=True, kw_only=True)
class _Walk:
    keys: SigningKeys
    known: Head | None
    head: Head = field(default_factory=Head)
    records: int = 0
    checkpoints: int = 0
    unsigned: int = 0
    torn_bytes: int = 0
    bad: BadRecord | None = None

    def follow(self, line: bytes) -> str | None:
        # One line; returns what is wrong with it.
        try:
            record = parsed(line)
        except ValidationError as exc:
            return exc.message
        fault = self._misplaced(record) or self._unvouched(record)
        if fault is None:
            self.head = Head(seq=record["seq"], hash=record["hash"])
            self.records += 1
        return fault

    def _misplaced(self, record: Record) -> str | None:
        expected, found = self.head.seq + 1, record["seq"]
        if found > expected:
            missing = f"record {expected} is" if found == expected + 1 else f"records {expected} to {found - 1} are"
            return f"{missing} missing: record {found} stands here"
        if found < expected:
            return f"record {found} stands here, where record {expected} should"
        if record["prev_hash"] != self.head.hash:
            return "the record before it is not the one it was written behind"
        if self.known is not None and found == self.known.seq and record["hash"] != self.known.hash:
            return "it is not the record that was noted outside of the log"
        return None

    def _unvouched(self, record: Record) -> str | None:
        if record.get("action") == DAMAGED:
            # What was changed behind the last checkpoint and then written on can be told from this alone.
            return f"the log was found damaged here: {record['result']['detail']}"
        if record.get("action") == CHECKPOINT:
            self.checkpoints += 1
            self.unsigned = 0
            return self.keys.fault(self.head, record.get("data"))
        self.unsigned += 1
        if self.unsigned > CHECKPOINT_EVERY:
            return f"there is no checkpoint among the {CHECKPOINT_EVERY} records before it"
        return None


def verify_chain(path: Path, *, keys: SigningKeys, known: Head | None = None) -> Verdict:
    """Read the log at `path` with its rotated files, and say whether it is whole. Works beside a running writer.

    Args:
        path: The file written to; the others are found beside it.
        keys: Whose signatures count.
        known: The end of the chain as it was noted elsewhere, read before this is called. Without it, records cut off
            behind the last checkpoint cannot be missed.

    Raises:
        TemporaryUnavailable: The files cannot be read.
    """
    walk = _Walk(keys=keys, known=known)
    try:
        with ExitStack() as stack:
            files = _opened(path, stack)
            line = 0
            for file, stream in files:
                line = _follow_file(walk, path, file, stream, last=stream is files[-1][1])
                if walk.bad is not None:
                    break
            if walk.bad is None and known is not None and known.seq > walk.head.seq:
                after = walk.head.seq + 1
                why = f"records {after} to {known.seq} are missing at the end"
                end = files[-1][0] if files else path
                walk.bad = BadRecord(file=str(end), line=line + 1, seq=after, why=why)
    except OSError as exc:
        raise TemporaryUnavailable(f"audit log {path}: {exc.strerror}") from exc
    return Verdict(
        ok=walk.bad is None,
        records=walk.records,
        checkpoints=walk.checkpoints,
        unsigned=walk.unsigned,
        files=len(files),
        torn_bytes=walk.torn_bytes,
        head=walk.head,
        compared=known is not None,
        bad=walk.bad,
    )


def _follow_file(walk: _Walk, path: Path, file: Path, stream: BinaryIO, *, last: bool) -> int:
    promised = first_seq_named(path, file)
    number = 0
    for number, line in enumerate(_lines(stream), 1):
        expected = walk.head.seq + 1
        fault: str | None
        if not line.endswith(b"\n"):
            if last and file == path and len(line) < MAX_LINE_BYTES:
                walk.torn_bytes = len(line)
                return number - 1
            fault = "the line is cut off, or longer than any record"
        elif number == 1 and promised is not None and promised != expected:
            fault = f"the file is named for record {promised}, and record {expected} is next"
        else:
            fault = walk.follow(line[:-1])
        if fault is not None:
            walk.bad = BadRecord(file=str(file), line=number, seq=expected, why=fault)
            return number
    return number


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    # At most so much at once: whatever lies there, memory holds it.
    while line := stream.readline(MAX_LINE_BYTES):
        yield line


# A rotation between listing and opening would show one file twice or not at all; open files stay what they are.
def _opened(path: Path, stack: ExitStack) -> list[tuple[Path, BinaryIO]]:
    for _ in range(_OPEN_ATTEMPTS):
        with ExitStack() as attempt:
            files = list_files(path)
            try:
                opened: list[tuple[Path, BinaryIO]] = [(file, attempt.enter_context(file.open("rb"))) for file in files]
                same = all(os.path.samestat(file.stat(), os.fstat(stream.fileno())) for file, stream in opened)
            except FileNotFoundError:
                continue
            if same and list_files(path) == files:
                stack.enter_context(attempt.pop_all())
                return opened
    raise TemporaryUnavailable(f"audit log {path}: its files do not stay long enough to be read")
