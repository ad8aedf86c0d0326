"""The worker that fills gaps, on a provider that answers as it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing

import pytest

from market_data_core.clock import SystemClock
from market_data_core.errors import ConnectionFailed, PacingViolation, PermissionsMissing
from market_data_core.models import Bar, EventMeta
from market_data_core.schemas import Origin
from market_data_orchestrator.backfill import BackfillJobs, begin_backfill
from market_data_orchestrator.service import Service
from market_data_orchestrator.settings import load_settings
from market_data_pipeline.capture import Capture
from market_data_pipeline.log import LogSettings, LogWriter
from market_data_store import open_backend
from market_data_store.backend import Wanted
from market_data_store.state import GapState, JobState, State
from support.service import eventually

MINUTE_NS = 60 * 10**9
NOON_NS = 1_704_110_400 * 10**9


class Hurried(SystemClock):
    """Lets time pass at once where it should sleep; says for how long that was."""

    def __init__(self):
        super().__init__()
        self.slept: list[float] = []

    def now_ns(self):
        return super().now_ns() + int(sum(self.slept) * 10**9)

    def monotonic_s(self):
        return super().monotonic_s() + sum(self.slept)

    async def sleep(self, delay_s):
        self.slept.append(delay_s)
        await asyncio.sleep(0)


class Answering:
    """A live feed that says nothing by itself; asked, it gives its `answers` in order, then bars."""

    name, origin, waits, symbols = "ibkr", Origin.LIVE, False, ("A", "B")

    def __init__(self):
        self.answers = []
        self.asked = []
        self._over = asyncio.Event()

    async def batches(self, resume: Mapping[str, int]) -> AsyncIterator[None]:
        del resume
        await self._over.wait()
        return
        yield

    async def close(self):
        self._over.set()

    async def request_historical_bars(self, symbol, resolution, *, start_ns, end_ns, what="TRADES"):
        self.asked.append((symbol, resolution, start_ns, end_ns, what))
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Exception):
            raise answer
        if answer is not None:
            await answer
        meta = EventMeta(vendor="ibkr", ts_recv_ns=end_ns, origin=Origin.BACKFILL)
        prices = {"open": 1.0, "high": 2.0, "low": 1.0, "close": 2.0, "volume": 5.0}
        return [
            Bar.from_ns(at, symbol=symbol, resolution=resolution, what=what, source="external", meta=meta, **prices)
            for at in range(start_ns, end_ns, MINUTE_NS)
        ]


class World:
    """A worker with everything around it."""

    def __init__(self, folder):
        self.folder = folder
        self.settings = load_settings(data_dir=folder, provider="ibkr", symbols=["A", "B"], bars=["1m"])
        self.config = Service(self.settings).config
        self.state = State(folder / "state.db")
        self.clock = Hurried()
        self.provider = Answering()
        self.paused = False
        self.log = LogWriter(folder / "log", LogSettings())
        self.capture = Capture(self.log)
        self.capture.start()
        self.capture.add(self.provider, {})

    def close(self):
        self.capture.stop()
        self.log.close()
        self.state.close()

    def worker(self, **changes):
        given = {
            "config": lambda: self.config,
            "paused": lambda: self.paused,
            "store": str(self.folder / "lake"),
            "tenant": "default",
            "owner": "me",
            "clock": self.clock,
        }
        return BackfillJobs(self.state, self.capture, **(given | changes))

    @asynccontextmanager
    async def working(self, **changes):
        task = asyncio.create_task(self.worker(**changes).run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def gap(self, symbol="A", *, cause="disconnected", minutes=3):
        begin_ns = NOON_NS + 1
        return self.state.open_gap("ibkr", symbol, "*", begin_ns, to_ns=NOON_NS + minutes * MINUTE_NS, cause=cause)

    async def until(self, gap, state):
        await asyncio.to_thread(
            eventually, lambda: self.state.get_gap(gap.id).state is state, 10, f"the gap is {state}"
        )
        return self.state.get_gap(gap.id)

    async def idle(self):
        # The gap is filled before its job says so.
        over = {JobState.DONE, JobState.FAILED}
        await asyncio.to_thread(eventually, lambda: {j.state for j in self.jobs()} <= over, 10, "no job is under way")

    def jobs(self):
        return self.state.list_jobs(kind="backfill")

    def stored(self):
        with closing(open_backend(str(self.folder / "lake"), "default")) as store:
            rows = store.fetch("bars", Wanted(versions=True)).to_pylist()
        return [(row["symbol"], row["ts_event"], row["revision"]) for row in rows]


def minutes(symbol, count):
    return [(symbol, NOON_NS + n * MINUTE_NS, 0) for n in range(count)]


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    made.close()


async def test_whole_bars_are_asked_for_and_stored_once(world):
    """From the bar that the gap begins in to the one it ends in; the same gap of all symbols adds only what is new."""
    first = world.gap("A")
    async with world.working():
        await world.until(first, GapState.FILLED)
        assert world.provider.asked == [("A", "1m", NOON_NS, NOON_NS + 3 * MINUTE_NS, "TRADES")]
        assert world.stored() == minutes("A", 3)
        both = world.gap("*", cause="paused")
        await world.until(both, GapState.FILLED)
        await world.idle()
    assert sorted(world.stored()) == [*minutes("A", 3), *minutes("B", 3)]
    results = [job.result for job in world.jobs()]
    assert [(r["bars"], r["inserted"], r["unchanged"]) for r in results] == [(6, 3, 3), (3, 3, 0)]


async def test_the_provider_is_given_the_time_it_asks_for(world):
    """Asked too often it says for how long; that is waited for, and it is asked again."""
    world.provider.answers = [PacingViolation("too fast", retry_after_sec=17.0), ConnectionFailed("away")]
    gap = world.gap("A")
    async with world.working():
        await world.until(gap, GapState.FILLED)
    assert len(world.provider.asked) == 3
    assert 17.0 in world.clock.slept
    assert world.stored() == minutes("A", 3)


async def test_a_provider_that_stays_away_leaves_the_gap_open(world):
    """The job fails and says why, and the gap is there to be filled another time."""
    world.provider.answers = [ConnectionFailed("no route to it") for _ in range(20)]
    gap = world.gap("A")
    async with world.working():
        await asyncio.to_thread(
            eventually, lambda: [j for j in world.jobs() if j.state is JobState.FAILED], 10, "the job has failed"
        )
        (job,) = world.jobs()
        assert "no route to it" in job.error
        found = world.state.get_gap(gap.id)
        assert (found.state, "no route to it" in found.detail) == (GapState.OPEN, True)
        world.provider.answers = []
        begin_backfill(world.state, world.config, gap.id, now_ns=world.clock.now_ns())
        await world.until(gap, GapState.FILLED)
    assert world.stored() == minutes("A", 3)


async def test_a_refusal_is_final(world):
    """It is asked once; the reason stands with the gap."""
    world.provider.answers = [PermissionsMissing("not subscribed")]
    gap = world.gap("A")
    async with world.working():
        found = await world.until(gap, GapState.UNFILLABLE)
    assert "not subscribed" in found.detail
    assert len(world.provider.asked) == 1
    assert world.stored() == []


async def test_nothing_is_asked_or_stored_while_intake_is_paused(world):
    """An answer that came after the pause began waits for its end."""
    let_go = asyncio.Event()

    async def answer_late():
        await let_go.wait()

    world.provider.answers = [answer_late()]
    gap = world.gap("A")
    async with world.working():
        await asyncio.to_thread(eventually, lambda: world.provider.asked, 10, "it was asked")
        world.paused = True
        world.capture._loop.call_soon_threadsafe(let_go.set)
        slept = len(world.clock.slept)
        await asyncio.to_thread(eventually, lambda: len(world.clock.slept) > slept + 3, 10, "the worker waits")
        assert world.stored() == []
        world.paused = False
        await world.until(gap, GapState.FILLED)
    assert world.stored() == minutes("A", 3)


async def test_an_ended_worker_leaves_its_job_to_the_next(world):
    """What it had asked for is asked again; nothing is there twice."""
    waiting = asyncio.Event()

    async def never():
        waiting.set()
        await asyncio.Event().wait()

    world.provider.answers = [never()]
    gap = world.gap("A")
    async with world.working():
        await asyncio.to_thread(eventually, waiting.is_set, 10, "the provider is asked")
    assert [job.state for job in world.jobs()] == [JobState.QUEUED]
    assert world.state.get_gap(gap.id).state is GapState.FILLING
    async with world.working():
        await world.until(gap, GapState.FILLED)
    assert world.stored() == minutes("A", 3)


async def test_a_cancelled_job_stops_and_the_gap_is_open(world):
    """While the provider thinks, too."""
    waiting = asyncio.Event()

    async def never():
        waiting.set()
        await asyncio.Event().wait()

    world.provider.answers = [never()]
    gap = world.gap("A")
    async with world.working(automatic=False):
        job = begin_backfill(world.state, world.config, gap.id, now_ns=world.clock.now_ns())
        await asyncio.to_thread(eventually, waiting.is_set, 10, "the provider is asked")
        world.state.cancel_job(job.id, world.clock.now_ns())
        await world.until(gap, GapState.OPEN)
        await asyncio.to_thread(
            eventually, lambda: world.state.get_job(job.id).state is JobState.CANCELLED, 10, "the job is cancelled"
        )


async def test_gaps_are_left_alone_unless_asked_for(world):
    """Not automatic, nothing is begun; of a gap that goes on nothing is begun either way."""
    gap = world.gap("A")
    lasting = world.state.open_gap("ibkr", "B", "*", NOON_NS, cause="disconnected")
    async with world.working(automatic=False):
        job = begin_backfill(world.state, world.config, world.gap("B", cause="stale").id, now_ns=1)
        await asyncio.to_thread(
            eventually, lambda: world.state.get_job(job.id).state is JobState.DONE, 10, "the job asked for is done"
        )
    assert len(world.jobs()) == 1
    assert {world.state.get_gap(g.id).state for g in (gap, lasting)} == {GapState.OPEN}
