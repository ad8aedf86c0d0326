"""Browser sessions outlive a restart, and nobody can learn them from the disk."""

from __future__ import annotations

from dataclasses import replace

import httpx
import pytest
from kit_world import container_in, running

from market_data_core.clock import ManualClock
from market_data_core.errors import TemporaryUnavailable
from market_data_core.web.auth import Principal, Role, Session, Sessions
from market_data_core.web.auth.sessions import ABSOLUTE_S, IDLE_S
from market_data_orchestrator.services import sessions as stored
from market_data_orchestrator.services.sessions import StateSessions
from market_data_store.state import LoginSession, State

ALICE = Principal(name="alice", role=Role.OPERATOR)


@pytest.fixture
def state(tmp_path):
    state = State(tmp_path / "state.db")
    yield state
    state.close()


@pytest.fixture
def clock():
    return ManualClock(1_700_000_000 * 10**9)


@pytest.fixture
def sessions(state, clock):
    return Sessions(StateSessions(lambda: state), clock=clock)


async def test_a_session_outlives_a_restart(tmp_path):
    """The cookie of before signs in after it; once signed out it does not, in any later run either."""
    before = container_in(tmp_path)
    async with running(before) as client:
        link = before.signing_in.first_link("http://127.0.0.1")
        assert (await client.get(link)).status_code == 303
        me = (await client.get("/auth/me")).json()
        (cookie,) = client.cookies.jar
    written = b"".join(path.read_bytes() for path in (tmp_path / "data").glob("state.db*"))
    assert cookie.value.encode() not in written
    async with running(container_in(tmp_path)) as client:
        client.cookies = httpx.Cookies({cookie.name: cookie.value})
        assert (await client.get("/auth/me")).json() == me
        signed_out = await client.post("/auth/logout", headers={"X-CSRF-Token": me["csrf_token"]})
        assert signed_out.status_code == 204
    async with running(container_in(tmp_path)) as client:
        client.cookies = httpx.Cookies({cookie.name: cookie.value})
        assert (await client.get("/auth/me")).status_code == 401


async def test_who_signed_in_is_found_until_it_is_over(sessions, clock):
    """By its secret alone; not used for an hour, or twelve hours old, it has ended."""
    secret = await sessions.open(ALICE)
    assert (await sessions.find(secret)).principal == ALICE
    assert await sessions.find("x" * len(secret)) is None
    for _ in range(int(ABSOLUTE_S / IDLE_S * 2) - 1):
        clock.advance(IDLE_S / 2)
        assert await sessions.find(secret) is not None
    clock.advance(IDLE_S / 2)
    assert await sessions.find(secret) is None
    idle = await sessions.open(ALICE)
    clock.advance(IDLE_S)
    assert await sessions.find(idle) is None


async def test_what_is_over_does_not_stay_on_disk(sessions, state, clock, monkeypatch):
    """A new login forgets sessions that have ended, and beyond the most there may be, those unused for longest."""
    monkeypatch.setattr(stored, "MAX_SESSIONS", 2)
    first = await sessions.open(ALICE)
    clock.advance(IDLE_S)
    secrets = [first]
    for _ in range(3):
        secrets.append(await sessions.open(ALICE))
        clock.advance(1)
    found = [await sessions.find(secret) is not None for secret in secrets]
    assert found == [False, False, True, True]


async def test_a_session_that_was_ended_does_not_come_back(state):
    """Not by a request that was under way meanwhile and notes its use."""
    store = StateSessions(lambda: state)
    session = Session(principal=ALICE, created_ns=10, seen_ns=10)
    await store.save("k", session)
    await store.remove("k")
    await store.save("k", replace(session, seen_ns=20))
    assert await store.find("k") is None


async def test_a_role_of_another_version_is_none_of_ours(state):
    """A session whose role is not known here signs nobody in."""
    kept = LoginSession(key_hash="k", name="alice", role="owner", created_ns=10, seen_ns=10)
    state.add_session(kept, created_after_ns=0, seen_after_ns=0, kept=10)
    assert await StateSessions(lambda: state).find("k") is None


async def test_before_the_start_no_session_can_be_told():
    """That is said, and not taken for a session that has ended."""
    with pytest.raises(TemporaryUnavailable, match="starting"):
        await StateSessions(lambda: None).find("k")
