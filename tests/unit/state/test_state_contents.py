"""What the small state keeps: ingests, jobs, gaps, flags."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market_data_core.errors import ValidationError
from market_data_store.state import GapState, Ingest, JobState, State

SECOND_NS = 1_000_000_000
MINUTE_NS = 60 * SECOND_NS


@pytest.fixture
def state(tmp_path):
    """A fresh state."""
    state = State(tmp_path / "state.db")
    yield state
    state.close()


def test_state_ingest_is_done_once_registered(state):
    """A content counts as stored from its registration on, and the first registration stands."""
    assert not state.ingest_done("file:abc")
    first = state.register_ingest("file:abc", "a.csv", 10, 1, 5)
    assert first == Ingest(source_id="file:abc", path="a.csv", rows=10, rejected=1, ts=5)
    assert state.register_ingest("file:abc", "copy.csv", 11, 0, 6) == first
    assert state.ingest_done("file:abc")


def test_state_ingests_newest_first(state):
    """The register lists what was stored, newest first."""
    for ts, source in enumerate(("x", "y", "z")):
        state.register_ingest(source, "p", 1, 0, ts)
    assert [i.source_id for i in state.list_ingests()] == ["z", "y", "x"]


def test_state_survives_reopening(tmp_path):
    """What was returned from is there for the next process."""
    path = tmp_path / "new" / "state.db"
    first = State(path)
    job = first.enqueue_job("backfill", {"symbols": ["A"]}, 1)
    gap = first.open_gap("v", "*", "*", 5, cause="paused")
    first.set_flag("paused", {"by": "me"})
    first.close()
    second = State(path)
    assert second.get_job(job.id) == job
    assert second.list_gaps() == [gap]
    assert second.get_flag("paused") == {"by": "me"}
    assert second.repairs == ()
    second.close()


def test_state_same_key_is_same_job(state):
    """Asking twice under one key makes one job, however the parameters are ordered."""
    first = state.enqueue_job("backfill", {"a": 1, "b": 2}, 1, "key")
    assert state.enqueue_job("backfill", {"b": 2, "a": 1}, 9, "key") == first
    assert state.list_jobs() == [first]


def test_state_key_with_other_content_is_refused(state):
    """A key cannot name two different jobs."""
    state.enqueue_job("backfill", {"a": 1}, 1, "key")
    with pytest.raises(ValidationError) as caught:
        state.enqueue_job("backfill", {"a": 2}, 1, "key")
    assert caught.value.code == "idempotency_conflict"


def test_state_jobs_without_key_are_different(state):
    """Without a key every request is a job of its own."""
    assert state.enqueue_job("k", {}, 1).id != state.enqueue_job("k", {}, 1).id


def test_state_claims_oldest_first(state):
    """Jobs are taken in the order they came, each once."""
    ids = [state.enqueue_job("k", {}, n).id for n in range(3)]
    claimed = [state.claim_job("me", 10) for _ in range(4)]
    assert [j and j.id for j in claimed] == [*ids, None]
    assert {(j.state, j.owner, j.attempts) for j in claimed if j} == {(JobState.RUNNING, "me", 1)}


def test_state_claims_only_kinds_asked_for(state):
    """A worker takes only what it can do."""
    state.enqueue_job("replay", {}, 1)
    backfill = state.enqueue_job("backfill", {}, 2)
    claimed = state.claim_job("me", 3, kinds={"backfill"})
    assert claimed is not None
    assert claimed.id == backfill.id
    assert state.claim_job("me", 3, kinds=set()) is None


def test_state_stale_job_is_taken_over(state):
    """A job whose owner fell silent goes to the next one, and the old owner has lost it."""
    job = state.enqueue_job("k", {}, 0)
    state.claim_job("dead", 0)
    state.update_job(job.id, {"done": 3}, owner="dead", now_ns=MINUTE_NS)
    assert state.claim_job("heir", 2 * MINUTE_NS) is None
    taken = state.claim_job("heir", 2 * MINUTE_NS + 1)
    assert taken is not None
    assert (taken.id, taken.owner, taken.attempts, taken.progress) == (job.id, "heir", 2, {"done": 3})
    for call in (
        lambda: state.update_job(job.id, {}, owner="dead", now_ns=3 * MINUTE_NS),
        lambda: state.finish_job(job.id, owner="dead", now_ns=3 * MINUTE_NS),
    ):
        with pytest.raises(ValidationError) as caught:
            call()
        assert caught.value.code == "job_lost"


def test_state_released_jobs_are_queued_again(state):
    """What a gone owner was at can be taken at once; what should be cancelled is."""
    kept, unwanted, other = (state.enqueue_job("k", {}, 0).id for _ in range(3))
    for owner in ("gone", "gone", "alive"):
        state.claim_job(owner, 1)
    state.cancel_job(unwanted, 2)
    assert sorted(state.release_jobs("gone", 3)) == [kept, unwanted]
    assert state.get_job(kept).state is JobState.QUEUED
    assert (state.get_job(unwanted).state, state.get_job(unwanted).finished_ns) == (JobState.CANCELLED, 3)
    assert state.get_job(other).owner == "alive"


@pytest.mark.parametrize(
    ("outcome", "ends"),
    [
        ({"result": {"rows": 5}}, (JobState.DONE, {"rows": 5}, None)),
        ({}, (JobState.DONE, None, None)),
        ({"error": "no such symbol"}, (JobState.FAILED, None, "no such symbol")),
    ],
)
def test_state_job_ends(state, outcome, ends):
    """A job ends done with its result, or failed with its error."""
    state.enqueue_job("k", {}, 1)
    claimed = state.claim_job("me", 2)
    assert claimed is not None
    ended = state.finish_job(claimed.id, owner="me", now_ns=3, **outcome)
    assert (ended.state, ended.result, ended.error) == ends
    assert ended.finished_ns == 3
    assert state.claim_job("me", 10**18) is None


def test_state_cancelling(state):
    """A queued job is cancelled at once, a running one is asked to stop, a finished one stays as it is."""
    running, queued = state.enqueue_job("k", {}, 1).id, state.enqueue_job("k", {}, 1).id
    state.claim_job("me", 2)
    assert state.cancel_job(queued, 3).state is JobState.CANCELLED
    assert state.cancel_job(running, 3).state is JobState.RUNNING
    assert state.update_job(running, {}, owner="me", now_ns=4).cancel_requested
    ended = state.finish_job(running, owner="me", now_ns=5, error="stopped at row 7")
    assert (ended.state, ended.error) == (JobState.CANCELLED, "stopped at row 7")
    assert state.cancel_job(running, 6) == ended


def test_state_abandoned_job_that_was_cancelled(state):
    """A cancelled job whose owner is gone is not started again."""
    job = state.enqueue_job("k", {}, 0)
    state.claim_job("dead", 0)
    state.cancel_job(job.id, 1)
    assert state.claim_job("heir", 10 * MINUTE_NS) is None
    assert state.get_job(job.id).state is JobState.CANCELLED


def test_state_jobs_page_newest_first(state):
    """Jobs are listed newest first, page by page, by kind and state."""
    ids = [state.enqueue_job("a" if n % 2 else "b", {}, n).id for n in range(6)]
    page = state.list_jobs(limit=4)
    assert [j.id for j in page + state.list_jobs(limit=4, before_id=page[-1].id)] == ids[::-1]
    state.claim_job("me", 9)
    assert [j.id for j in state.list_jobs(states=[JobState.RUNNING])] == [ids[0]]
    assert [j.id for j in state.list_jobs(kind="a")] == [ids[5], ids[3], ids[1]]


def test_state_unknown_ids(state):
    """What is not there is named."""
    for call in (
        lambda: state.get_job(7),
        lambda: state.cancel_job(7, 1),
        lambda: state.finish_job(7, owner="me", now_ns=1),
        lambda: state.get_gap(7),
        lambda: state.close_gap(7, to_ns=1),
    ):
        with pytest.raises(ValidationError, match="7") as caught:
            call()
        assert caught.value.code == "not_found"


def test_state_gap_from_opening_to_filling(state):
    """A gap is opened, ends, is being filled, and is filled."""
    gap = state.open_gap("v", "AAPL", "trades", 100, cause="disconnect", detail="code 1100")
    assert (gap.state, gap.to_ns, gap.detail) == (GapState.OPEN, None, "code 1100")
    assert state.close_gap(gap.id, to_ns=200).to_ns == 200
    assert state.close_gap(gap.id, state=GapState.FILLING).state is GapState.FILLING
    filled = state.close_gap(gap.id, state=GapState.FILLED, detail="12 trades")
    assert (filled.state, filled.to_ns, filled.detail) == (GapState.FILLED, 200, "12 trades")


def test_state_same_gap_twice_is_one(state):
    """Noting the same gap again changes nothing but an end that was not known."""
    first = state.open_gap("v", "*", "*", 100, cause="paused")
    assert state.open_gap("v", "*", "*", 100, cause="paused") == first
    assert state.open_gap("v", "*", "*", 100, cause="paused", to_ns=150).to_ns == 150
    assert state.open_gap("v", "*", "*", 100, cause="paused", to_ns=999).to_ns == 150
    assert len(state.list_gaps()) == 1


def test_state_gap_cannot_end_before_it_begins(state):
    """An end before the beginning is refused."""
    with pytest.raises(ValidationError, match="cannot end"):
        state.open_gap("v", "A", "trades", 100, cause="x", to_ns=99)
    gap = state.open_gap("v", "A", "trades", 100, cause="x")
    with pytest.raises(ValidationError, match="cannot end"):
        state.close_gap(gap.id, to_ns=99)


def test_state_gaps_are_found_by_what_they_touch(state):
    """Gaps are listed newest first; those of all symbols or kinds touch every one."""
    old = state.open_gap("v", "A", "trades", 100, cause="x", to_ns=200)
    every = state.open_gap("v", "*", "*", 300, cause="x", to_ns=400)
    other = state.open_gap("w", "B", "quotes", 500, cause="x")
    assert state.list_gaps() == [other, every, old]
    assert state.list_gaps(symbol="A") == [every, old]
    assert state.list_gaps(symbol="A", kind="quotes") == [every]
    assert state.list_gaps(vendor="w") == [other]
    assert state.list_gaps(start_ns=200, end_ns=300) == []
    assert state.list_gaps(start_ns=399, end_ns=501) == [other, every]
    assert state.list_gaps(states=[GapState.FILLED]) == []
    assert state.list_gaps(limit=1, before=every) == [old]


def test_state_flags(state):
    """A flag keeps the last value set, null and false among them."""
    assert state.get_flag("paused") is None
    assert state.get_flag("paused", default=False) is False
    for value in ({"at": 5, "by": ["é"]}, None, False):
        state.set_flag("paused", value)
        assert state.get_flag("paused", default="none") == value
    assert state.list_flags() == {"paused": False}


@pytest.mark.parametrize("value", [{1, 2}, float("nan"), b"x"])
def test_state_takes_only_json(state, value):
    """What JSON cannot say is refused."""
    with pytest.raises(ValidationError, match="not a JSON value"):
        state.set_flag("x", value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def shared_state(tmp_path_factory):
    """One state for all the values of a property."""
    state = State(tmp_path_factory.mktemp("state") / "state.db")
    yield state
    state.close()


@given(value=JSON)
def test_state_json_round_trip(shared_state, value):
    """Any JSON value comes back as it was put in."""
    shared_state.set_flag("value", value)
    assert shared_state.get_flag("value") == value
    job = shared_state.enqueue_job("k", {"value": value}, 1)
    assert shared_state.get_job(job.id).params == {"value": value}
