"""``mdo backfill``: have gaps filled from their providers' history."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Final

import httpx
import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from market_data_core.errors import ConfigurationError, TemporaryUnavailable
from market_data_orchestrator.cli.calls import Calls, Url, checked, detail_of
from market_data_orchestrator.cli.options import AsJson, DataDir
from market_data_orchestrator.cli.output import ERR, FAILURE, print_json, print_table, say
from market_data_orchestrator.settings import load_settings
from market_data_store.state import GapState, JobState

_ASKED: Final = "asked"
_REFUSED: Final = "refused"
_FAILED: Final = "failed"
_BAD: Final = frozenset({_REFUSED, _FAILED, str(GapState.UNFILLABLE)})
_TO_DO: Final = (GapState.OPEN, GapState.FILLING)
_UNDER_WAY: Final = frozenset({str(JobState.QUEUED), str(JobState.RUNNING)})
_LOOK_S: Final = 0.25
# A job and its gap are written one after the other; this long one of the two may say that it is over alone.
_PATIENCE_S: Final = 3.0
_GONE_S: Final = 30.0


@dataclass(slots=True, kw_only=True)
class Filling:
    """What becomes of one gap that was asked for.

    Attributes:
        gap_id: Which.
        outcome: ``asked`` while it is under way, ``filled``, ``unfillable``, ``failed`` or ``refused``.
        job_id: The job that fills it; None if it was refused.
        provider: Whose history it is filled from.
        detail: Why it was refused, failed or cannot be filled.
    """

    gap_id: int
    outcome: str
    job_id: int | None = None
    provider: str = ""
    detail: str = ""


def backfill(
    gap_ids: Annotated[
        list[int] | None, typer.Argument(metavar="GAP_ID", help="Which gaps: see `mdo gaps`.", show_default=False)
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Every gap that is over and not filled yet.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait until they are filled, or end once they were asked for.")
    ] = True,
    url: Url = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> int:
    """Have the running service fill gaps from their providers' history. The exit code is 1 unless all of them were.

    Nothing is stored twice: a gap that is being filled already is waited for. Ctrl-C ends the waiting, not the filling.
    The key is ORCH_API_KEY, or the one that the first start left in the data directory; it takes an operator's.

    Example: mdo backfill 12 13
    """
    if bool(gap_ids) == every:
        raise ConfigurationError("name the gaps to fill, or say --all: `mdo gaps --state open` lists them")
    calls = Calls(url, load_settings(data_dir=data_dir))
    wanted = dict.fromkeys(gap_ids) if gap_ids else _all_over(calls)
    fillings = [_ask(calls, gap_id) for gap_id in wanted]
    begun = {f.gap_id: f for f in fillings if f.outcome == _ASKED}
    if wait and begun:
        try:
            _follow(calls, begun, quiet=as_json)
        except KeyboardInterrupt:
            say("the service goes on filling; see `mdo gaps --state filling`", ERR)
            raise
    _report(fillings, as_json=as_json)
    return FAILURE if any(f.outcome in _BAD for f in fillings) else 0


# A gap that goes on cannot be filled yet, and asking for all is no reason to be told so of each.
def _all_over(calls: Calls) -> list[int]:
    rows = calls.rows("/gaps", {"state": _TO_DO})
    return [row["id"] for row in rows if row["to_ns"] is not None]


def _ask(calls: Calls, gap_id: int) -> Filling:
    answer = calls.post("/backfill", {"gap_id": gap_id}, key=uuid.uuid4().hex)
    if answer.status_code in (httpx.codes.NOT_FOUND, httpx.codes.CONFLICT):
        return Filling(gap_id=gap_id, outcome=_REFUSED, detail=detail_of(answer, calls.base))
    said = checked(answer, calls.base)
    return Filling(gap_id=gap_id, outcome=_ASKED, job_id=said["job_id"], provider=said.get("provider", ""))


def _follow(calls: Calls, begun: dict[int, Filling], *, quiet: bool) -> None:
    following = _Following(calls, begun)
    shown = Progress(
        TextColumn("backfill"),
        BarColumn(),
        TextColumn("{task.completed:.0f} of {task.total:.0f} gaps"),
        TextColumn("{task.fields[rows]:,} rows"),
        TimeElapsedColumn(),
        console=ERR,
        transient=True,
        disable=quiet or not ERR.is_terminal,
    )
    heard_s = time.monotonic()
    with shown:
        task = shown.add_task("backfill", total=len(begun), rows=0)
        while following.waiting:
            try:
                following.look()
                heard_s = time.monotonic()
            except TemporaryUnavailable as exc:
                if time.monotonic() - heard_s > _GONE_S:
                    raise TemporaryUnavailable(
                        f"{exc}; the service keeps the jobs and goes on with them when it runs again"
                    ) from exc
            shown.update(task, completed=len(begun) - len(following.waiting), rows=following.rows)
            if following.waiting:
                time.sleep(_LOOK_S)


class _Following:
    # What is known of the gaps that are being filled, look by look.
    def __init__(self, calls: Calls, begun: dict[int, Filling]) -> None:
        self._calls = calls
        self.waiting = dict(begun)
        self._jobs: dict[int, dict[str, Any]] = {}
        self._half_over: dict[int, float] = {}

    @property
    def rows(self) -> int:
        return sum(job.get("rows", 0) for job in self._jobs.values())

    def look(self) -> None:
        mine = {f.job_id for f in self.waiting.values()}
        # The service shows its newest jobs alone, so what was seen once is kept.
        self._jobs |= {job["id"]: job for job in self._calls.get("/status")["jobs"] if job["id"] in mine}
        still = {row["id"] for row in self._calls.walk("/gaps", {"state": GapState.FILLING})}
        left = self._found(self.waiting.keys() - still)
        for filling in [*self.waiting.values()]:
            job = self._jobs.get(filling.job_id or 0)
            self._judge(filling, left.get(filling.gap_id), None if job is None or job["state"] in _UNDER_WAY else job)

    def _found(self, gap_ids: Iterable[int]) -> dict[int, dict[str, Any]]:
        missing, found = set(gap_ids), dict[int, dict[str, Any]]()
        rows = self._calls.walk("/gaps") if missing else iter(())
        while missing and (row := next(rows, None)) is not None:
            if row["id"] in missing:
                missing.discard(row["id"])
                found[row["id"]] = row
        return found

    def _judge(self, filling: Filling, gap: dict[str, Any] | None, job: dict[str, Any] | None) -> None:
        if gap is None and job is None:
            return
        since_s = self._half_over.setdefault(filling.gap_id, time.monotonic())
        said_why = gap is not None and gap["state"] == GapState.UNFILLABLE and gap["detail"]
        settled = said_why or (gap is not None and gap["state"] == GapState.FILLED)
        if not settled and (gap is None or job is None) and time.monotonic() - since_s < _PATIENCE_S:
            return
        state = "" if gap is None else gap["state"]
        filling.outcome = state if state in (GapState.FILLED, GapState.UNFILLABLE) else _FAILED
        if filling.outcome != GapState.FILLED:
            unsaid = "its job is over, and the gap is not said to be filled" if gap is None else ""
            filling.detail = (job["error"] if job else "") or (gap["detail"] if gap else "") or unsaid
        del self.waiting[filling.gap_id]


def _report(fillings: list[Filling], *, as_json: bool) -> None:
    if as_json:
        print_json({"gaps": [asdict(f) for f in fillings]})
        return
    if not fillings:
        say("no gap is to be filled")
        return
    print_table(
        "",
        ["gap", "outcome", "job", "provider", "detail"],
        (
            [str(f.gap_id), f.outcome, None if f.job_id is None else str(f.job_id), f.provider, f.detail]
            for f in fillings
        ),
    )
