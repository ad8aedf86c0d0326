"""``mdo tap``: look at what leaves a node, live."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from market_data_core.batch import EventBatch
from market_data_core.errors import TemporaryUnavailable
from market_data_core.schemas import Kind
from market_data_orchestrator.cli.lines import Lines, json_lines, moment
from market_data_orchestrator.cli.options import AsJson, DataDir
from market_data_orchestrator.cli.output import ERR, OUT
from market_data_orchestrator.composition import engine_settings
from market_data_orchestrator.config import load_platform
from market_data_orchestrator.settings import load_settings
from market_data_pipeline.dag import duration_ns
from market_data_pipeline.log.segments import list_segments
from market_data_pipeline.operators.entrance import Entrance
from market_data_pipeline.tapping import POLL_S, GraphTap, TappedSpan, position_at

_BEHIND_S = 1.0
_QUIET_S = 5.0
_TELL_S = 1.0


def tap(
    node: Annotated[str, typer.Argument(help="A node of the graph: see `mdo graph`.", show_default=False)],
    port: Annotated[
        str | None, typer.Option(help="Only this output of the node; all when not given.", show_default=False)
    ] = None,
    symbol: Annotated[
        list[str] | None, typer.Option(help="Only this symbol; may be given again.", show_default=False)
    ] = None,
    kind: Annotated[
        list[Kind] | None, typer.Option(help="Only this kind; may be given again.", show_default=False)
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="End after so many events.", show_default=False)] = None,
    for_: Annotated[
        str | None, typer.Option("--for", metavar="TIME", help="End after so long, such as 30s.", show_default=False)
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Begin with what was logged so long ago, such as 30s.", show_default=False),
    ] = None,
    as_json: AsJson = False,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The configuration with the graph [ORCH_CONFIG].", show_default=False),
    ] = None,
    data_dir: DataDir = None,
) -> int:
    """Show the events that leave a node of the graph, as they happen, until Ctrl-C.

    The log is read and the part of the graph before the node is run right here: the service is not asked, not slowed
    and need not run. Of a source, what enters is shown; of a sink, what it is given. State begins empty: a bar that
    was open when the tap began holds only what came since. Late events make no revisions here.

    A terminal or program that takes events too slowly misses whole spans, which are counted and told. With --json:
    one object per line, times in UTC nanoseconds; `{"event": "skipped", ...}` stands where events were skipped.

    Example: mdo tap bars-1m --symbol AAPL --for 5m
    """
    settings = load_settings(data_dir=data_dir)
    platform = load_platform(config, settings=settings)
    settings = platform.applied_to(settings)
    folder = engine_settings(settings, platform).log_folder or settings.data_path / "log"
    lasting_s = duration_ns(for_) / 1e9 if for_ is not None else None
    back_ns = duration_ns(since) if since is not None else None
    wanted = Entrance(kinds=kind or (), symbols=symbol or (), name="tap")
    if not list_segments(folder):
        # Named first where both are wrong: a node can be put right without a log.
        GraphTap(platform.graph, node, log_folder=folder, port=port).close()
        raise TemporaryUnavailable(f"there is no log at {folder}; start `mdo up`, or name its data with --data-dir")
    start = None if back_ns is None else position_at(folder, time.time_ns() - back_ns)
    with GraphTap(platform.graph, node, log_folder=folder, port=port, start=start) as found:
        if not as_json:
            _say(f"{node} from seq {found.position:,} on, log {folder}")
        shown = _Shown(wanted=wanted, as_json=as_json, limit=limit)
        _Watch(found, shown, node=node, lasting_s=lasting_s).run()
    return 0


class _Shown:
    # Writes to standard output what was asked for, and counts.
    def __init__(self, *, wanted: Entrance, as_json: bool, limit: int | None) -> None:
        self._wanted = wanted
        self._limit = limit
        self.as_json = as_json
        self._lines: Callable[[str, EventBatch], Iterable[str]] = json_lines if as_json else Lines().of
        self.events = 0

    @property
    def full(self) -> bool:
        return self._limit is not None and self.events >= self._limit

    def wanted(self, span: TappedSpan) -> list[tuple[str, EventBatch]]:
        return [(port, kept) for port, batch in span.batches for kept in self._wanted.process(batch).out]

    def put(self, batches: Iterable[tuple[str, EventBatch]]) -> None:
        lines: list[str] = []
        for port, batch in batches:
            lines += self._lines(port, batch)
        if self._limit is not None:
            lines = lines[: self._limit - self.events]
        OUT.file.write("".join(f"{line}\n" for line in lines))
        OUT.file.flush()
        self.events += len(lines)

    def note_skipped(self, events: int) -> None:
        # Who reads JSON reads no standard error, and wants to know where they are missing.
        if self.as_json:
            OUT.file.write(f'{{"event": "skipped", "events": {events}}}\n')
        else:
            _say(f"{events:,} events skipped: they come faster than they are taken here")


@dataclass(slots=True)
class _Skipped:
    events: int = 0
    spans: int = 0
    untold: int = 0


class _Pace:
    # Says whether the tap is behind: whether the log reached the place it has come to longer than a second ago. Goes
    # by what this process saw of the log's end, because the service's clock may be another. What was there before the
    # tap began was asked for and is no delay.
    def __init__(self, end: int) -> None:
        self._begun = end
        self._seen: deque[tuple[int, float]] = deque([(end, time.monotonic())])

    def saw(self, end: int) -> None:
        if end > self._seen[-1][0]:
            self._seen.append((end, time.monotonic()))

    def is_behind(self, position: int) -> bool:
        if position <= self._begun:
            return False
        while len(self._seen) > 1 and self._seen[0][0] < position:
            self._seen.popleft()
        end, at = self._seen[0]
        return end >= position and time.monotonic() - at > _BEHIND_S

    def is_unfinished(self, position: int) -> bool:
        return position < self._begun or self.is_behind(position + 1)


class _Watch:
    def __init__(self, tap: GraphTap, shown: _Shown, *, node: str, lasting_s: float | None) -> None:
        self._tap = tap
        self._shown = shown
        self._node = node
        self._until = time.monotonic() + lasting_s if lasting_s is not None else float("inf")
        self._pace = _Pace(tap.durable_end)
        self._skipped = _Skipped()
        self._told = 0.0
        self._interrupted = threading.Event()
        self._moved = time.monotonic()

    def run(self) -> None:
        try:
            with _interrupt(self._interrupted):
                self._follow()
                if self._skipped.untold:
                    self._tell_skipped()
                OUT.file.flush()
        except KeyboardInterrupt:
            pass  # insisted on, while nobody takes what is written
        except BrokenPipeError:
            _let_go_of_stdout()
        self._sum_up()

    def _follow(self) -> None:
        while not self._is_over():
            before = self._tap.position
            self._pace.saw(self._tap.durable_end)
            for span in self._tap.read():
                self._take(span)
                if self._is_over():
                    break
            self._tell(before)
            if self._tap.position == before:
                time.sleep(max(min(POLL_S, self._until - time.monotonic()), 0.0))

    def _is_over(self) -> bool:
        return self._interrupted.is_set() or self._shown.full or time.monotonic() >= self._until or _is_unread(OUT.file)

    def _take(self, span: TappedSpan) -> None:
        batches = self._shown.wanted(span)
        rows = sum(len(batch) for _, batch in batches)
        if rows == 0:
            return
        self._pace.saw(self._tap.durable_end)
        if self._pace.is_behind(span.end):
            self._skipped.events += rows
            self._skipped.spans += 1
            self._skipped.untold += rows
            return
        # Told where they are missing, in text at most once a second.
        if self._skipped.untold and (self._shown.as_json or time.monotonic() - self._told >= _TELL_S):
            self._tell_skipped()
        self._shown.put(batches)

    def _tell_skipped(self) -> None:
        self._shown.note_skipped(self._skipped.untold)
        self._skipped.untold, self._told = 0, time.monotonic()

    def _tell(self, before: int) -> None:
        now = time.monotonic()
        for problem in self._tap.problems:
            _say(problem)
        self._tap.problems.clear()
        if self._tap.position != before:
            self._moved = now
        elif now - self._moved >= _QUIET_S:
            self._moved = float("inf")  # once is enough, until something comes
            _say(f"nothing is logged since {_last(self._tap)}; is `mdo up` running?")
        if self._skipped.untold and now - self._told >= _TELL_S:
            self._tell_skipped()

    def _sum_up(self) -> None:
        left = self._tap.durable_end - self._tap.position if self._pace.is_unfinished(self._tap.position) else 0
        said = f"{self._shown.events:,} events of {self._node} shown"
        if self._skipped.events:
            said += f", {self._skipped.events:,} in {self._skipped.spans:,} spans skipped"
        if left > 0 and not self._shown.full:
            said += f", {left:,} logged events not looked at yet"
        _say(said)


@contextlib.contextmanager
def _interrupt(asked: threading.Event) -> Iterator[None]:
    # The first Ctrl-C ends the tap between two spans, so that no line is cut and all are counted; another at once.
    def ask(number: int, _: object) -> None:
        asked.set()
        signal.signal(number, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _last(tap: GraphTap) -> str:
    return moment(tap.ts_append) if tap.ts_append else "the tap began"


def _say(sentence: str) -> None:
    ERR.print(sentence, markup=False, highlight=False, soft_wrap=True, emoji=False)


def _is_unread(stream: object) -> bool:
    # Who reads may be gone long before the next event would find that out.
    if not hasattr(select, "poll"):
        return False
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return False  # no pipe: a test's or a notebook's
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))


def _let_go_of_stdout() -> None:
    # What is still buffered would be tried again when the process ends, with a complaint of the interpreter's.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
