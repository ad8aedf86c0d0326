"""The provider while the gateway fails: nothing is lost or doubled but in gaps, and it comes back by itself."""

from __future__ import annotations

import pytest
from ibkr_desk import until

from market_data_core.schemas import Kind


async def _moved(d, reading, steps=5):
    for _ in range(steps):
        d.gateway.step()
    await until(lambda: reading.quotes("AAPL") == d.gateway.quotes["AAPL"])


def _gap_is_between_ticks(gap, reading):
    before = [r["ts_recv"] for r in reading.rows(Kind.QUOTES, "AAPL") if r["ts_recv"] <= gap.from_ns]
    after = [r["ts_recv"] for r in reading.rows(Kind.QUOTES, "AAPL") if r["ts_recv"] >= gap.to_ns]
    inside = [r for r in reading.rows(Kind.QUOTES, "AAPL") if gap.from_ns < r["ts_recv"] < gap.to_ns]
    assert before
    assert after
    assert inside == []


@pytest.mark.parametrize("fault", ["reset", "finish", "huge", "silence", "partial"])
async def test_a_broken_connection_is_a_gap_and_then_all_flows_again(desk, fault):
    """However it breaks: noticed, connected again, subscribed again, and the hole is on record."""
    async with desk() as d:
        reading = await d.reading("AAPL", heartbeat_s=0.1, heartbeat_timeout_s=0.1)
        await _moved(d, reading)
        getattr(d.gateway, fault)()
        await until(lambda: d.gateway.accepted >= 2)
        await until(lambda: reading.gaps)
        await until(lambda: d.gateway.count(97, d.gateway.accepted) == 1)
        await _moved(d, reading)
        await d.same(reading, "AAPL")
        (gap,) = reading.gaps
        assert (gap.vendor, gap.symbols, gap.cause) == ("ibkr", ("AAPL",), "disconnected")
        _gap_is_between_ticks(gap, reading)
        assert reading.provider.status == "live"


async def test_it_comes_back_with_the_same_client_id_until_it_is_let_in(desk):
    """A gateway that still holds the old session says 326; the id is not changed for that."""
    async with desk() as d:
        reading = await d.reading("AAPL")
        await _moved(d, reading)
        d.gateway.refuse_clients = 3
        d.gateway.reset()
        await until(lambda: reading.gaps)
        assert d.gateway.accepted == 5
        assert {r.fields[2] for r in d.gateway.asked(71)} == {"1"}
        assert reading.provider.counters["connections"] == 2


async def test_a_gateway_that_is_away_is_waited_for(desk):
    """While nobody listens the provider is stale; when somebody does it lives."""
    async with desk() as d:
        reading = await d.reading("AAPL")
        await _moved(d, reading)
        d.gateway.stop_listening()
        d.gateway.reset()
        await until(lambda: reading.provider.status == "stale")
        await d.gateway.start()
        await until(lambda: reading.provider.status == "live")
        await until(lambda: reading.gaps)
        await d.same(reading, "AAPL")
        assert len(reading.gaps) == 1


async def test_request_ids_are_never_used_twice(desk):
    """Over reconnects too, so that what comes late is known to be late."""
    async with desk(late_ticks=True) as d:
        reading = await d.reading("AAPL")
        for _ in range(3):
            await _moved(d, reading, 1)
            gaps = len(reading.gaps)
            d.gateway.reset()
            await until(lambda gaps=gaps: len(reading.gaps) > gaps)
        ids = [r.fields[2] for r in d.gateway.asked(1)]
        assert len(ids) == len(set(ids)) == 4


async def test_a_lost_link_makes_every_line_stale_and_keeps_the_connection(desk):
    """1100 and 1102: the gap lasts until the first tick after; nothing is asked for again."""
    async with desk() as d:
        reading = await d.reading("AAPL")
        await _moved(d, reading)
        d.gateway.say(1100)
        await until(lambda: reading.provider.status == "stale")
        assert reading.provider.lines["AAPL"].code == 1100
        d.gateway.say(1102)
        await _moved(d, reading)
        await d.same(reading, "AAPL")
        (gap,) = reading.gaps
        assert gap.cause == "link_lost"
        _gap_is_between_ticks(gap, reading)
        assert (d.gateway.accepted, d.gateway.count(1)) == (1, 1)


async def test_a_link_that_lost_its_data_is_subscribed_anew(desk):
    """1101: every line is cancelled and asked for again; what comes late for the old one is left out."""
    async with desk(late_ticks=True) as d:
        reading = await d.reading("AAPL", "MSFT")
        await _moved(d, reading)
        d.gateway.say(1100)
        d.gateway.say(1101)
        await until(lambda: d.gateway.count(97) == 4)
        await _moved(d, reading)
        await d.same(reading, "AAPL")
        await d.same(reading, "MSFT")
        assert {gap.symbols for gap in reading.gaps} == {("AAPL",), ("MSFT",)}
        assert reading.provider.counters["late_messages"] >= 2
        assert (d.gateway.accepted, d.gateway.count(2), d.gateway.count(98)) == (1, 2, 2)


async def test_a_line_that_stays_dead_after_the_link_is_back_is_asked_for_again(desk):
    """The gateway says that all is well; a line that gives nothing all the same is not believed."""
    async with desk() as d:
        reading = await d.reading("AAPL", verify_s=0.05)
        await _moved(d, reading)
        d.gateway.say(1100)
        d.gateway.say(1102)
        await until(lambda: d.gateway.count(1) == 2)
        await until(lambda: reading.gaps)
        await d.same(reading, "AAPL")


async def test_a_farm_that_is_away_is_a_gap_and_no_reason_to_reconnect(desk):
    """2103 and 2104: from the last tick that came to the first one after."""
    async with desk() as d:
        reading = await d.reading("AAPL")
        await _moved(d, reading)
        d.gateway.say(2103)
        await until(lambda: reading.provider.status == "stale")
        d.gateway.say(2104)
        await _moved(d, reading)
        await d.same(reading, "AAPL")
        (gap,) = reading.gaps
        assert gap.cause == "farm_down"
        _gap_is_between_ticks(gap, reading)
        assert d.gateway.accepted == 1


@pytest.mark.parametrize("code", [10197, 200])
async def test_what_passes_is_tried_again(desk, code):
    """Somebody else logged in, or a contract unknown that was known before: later it is there again."""
    async with desk() as d:
        reading = await d.reading("AAPL")
        await _moved(d, reading)
        d.gateway.say_of("AAPL", code)
        await until(lambda: reading.provider.status == "stale")
        await until(lambda: d.gateway.count(1) == 2)
        await until(lambda: reading.gaps)
        assert reading.provider.status == "live"


async def test_closing_says_what_is_still_missing(desk):
    """A provider that is closed while it is cut off ends with its gap."""
    async with desk() as d:
        reading = await d.reading("AAPL")
        await _moved(d, reading)
        d.gateway.stop_listening()
        d.gateway.reset()
        await until(lambda: reading.provider.status == "stale")
        await reading.provider.close()
        await reading.task
        (gap,) = reading.gaps
        assert gap.from_ns < gap.to_ns
        assert reading.provider.status == "closed"
        assert d.gateway.connections == []


@pytest.mark.parametrize("fault", ["reset", "silence"])
async def test_what_a_fault_swallows_in_a_moving_market_lies_in_its_gap(desk, fault):
    """Before the gap and behind it the trades are the gateway's, without a hole or a repeat."""
    async with desk(interval_s=0.002) as d:
        reading = await d.reading("AAPL", heartbeat_s=0.05, heartbeat_timeout_s=0.05)
        await until(lambda: len(reading.trades("AAPL")) > 20)
        getattr(d.gateway, fault)()
        await until(lambda: reading.gaps)
        await until(lambda: reading.rows(Kind.TRADES)[-1]["ts_recv"] > reading.gaps[0].to_ns)
        known = len(reading.trades("AAPL"))
        await until(lambda: len(reading.trades("AAPL")) > known + 20)
        await reading.provider.close()
        await reading.task
        (gap,) = reading.gaps
        said, got = d.gateway.trades["AAPL"], reading.trades("AAPL")
        before = sum(r["ts_recv"] <= gap.from_ns for r in reading.rows(Kind.TRADES))
        behind = got[before:]
        assert got[:before] == said[:before]
        assert any(said[n : n + len(behind)] == behind for n in range(before, len(said)))
