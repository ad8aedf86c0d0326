from __future__ import annotations

import asyncio
import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_reading import KINDS, SECOND, column, made, read, rows_of, same, table

from market_data_core.batch import SourceBatch
from market_data_core.clock import ManualClock
from market_data_core.errors import ConfigurationError
from market_data_core.models import Trade
from market_data_core.protocols import Mark
from market_data_core.schemas import Kind
from market_data_pipeline.source.synthetic import SyntheticSource
from market_data_pipeline.source.synthetic.bursts import BurstRate
from market_data_pipeline.source.synthetic.draws import Share, key_of
from market_data_pipeline.source.synthetic.schedule import Rate

ONE_FOR_ONE = {
    "silence": {"every_s": 3, "for_s": 1},
    "bursts": {"every_s": 4, "for_s": 0.5, "factor": 6},
    "duplicates": {"share": 0.05, "after": 3},
    "late": {"share": 0.02, "by_s": 5},
    "out_of_order": {"share": 0.03, "by_s": 0.05},
    "crossed": 0.01,
    "spikes": {"share": 0.005, "factor": 10},
}
ALL = ONE_FOR_ONE | {"gaps": {"every_s": 2, "for_s": 0.3}, "bad_values": 0.02}


@pytest.mark.parametrize(
    ("seed", "source_id", "digest"),
    [
        (1, "synthetic:1:dc8630da968c1fb7", "9e9f13296e2adddb3e82ff76b0a30b1e66f42a08e4e04cd466247458fb597607"),
        (7, "synthetic:7:ec74f1f407bf5449", "6acc08633306f81ba68b904a3401c461c6455e1f074cea65bdd9916a39395bdb"),
    ],
)
def test_without_defects_a_seed_gives_what_it_always_gave(seed, source_id, digest):
    """The first 10,000 events, their batches and their names are pinned."""
    source = SyntheticSource(seed=seed, time="virtual", count=10_000)
    found = hashlib.sha256()
    for item in read(source):
        found.update(f"{item.source_id} {item.offset}\n".encode())
        if isinstance(item, SourceBatch):
            for name in item.data.schema.names:
                found.update("\n".join(map(repr, item.data.column(name).to_pylist())).encode())
    assert (source.source_id, found.hexdigest()) == (source_id, digest)


@pytest.mark.parametrize("defects", [None, {}, {"late": 0}, {"crossed": 0.0, "duplicates": {"share": 0}}], ids=str)
def test_asking_for_nothing_gives_the_clean_market(defects):
    """No defect and a share of none are the same source."""
    source = made(defects=defects)
    assert source.source_id == made().source_id
    assert source.injected == {}


@pytest.mark.parametrize(
    ("defects", "message"),
    [
        ({"hiccups": 0.1}, "no defect is named hiccups; there are: gaps, silence, bursts, duplicates"),
        ("late", "defects is 'late'; give a mapping of gaps, silence"),
        ([0.1], "give a mapping"),
        ({"late": True}, "late is True; give a share, or a mapping of share, by_s"),
        ({"late": "often"}, "late is 'often'; give a share"),
        ({"late": -0.1}, "late: share is -0.1; it takes 0, or from 0.000001 to 1"),
        ({"late": 1.5}, "share is 1.5"),
        ({"late": 1e-9}, "share is 1e-09"),
        ({"late": float("nan")}, "share is nan"),
        ({"late": {"by_s": 5}}, "late needs share; it takes share, by_s"),
        ({"late": {"share": 0.1, "for_s": 5}}, "late has no for_s; it takes share, by_s"),
        ({"late": {"share": 0.1, "by_s": 0}}, "late: by_s is 0; it takes a number of seconds"),
        ({"late": {"share": 0.1, "by_s": float("inf")}}, "by_s is inf"),
        ({"out_of_order": {"share": 0.1, "by_s": "1s"}}, "by_s is '1s'"),
        ({"duplicates": {"share": 0.1, "after": 1.5}}, "after is 1.5; it takes a whole number of trades"),
        ({"duplicates": {"share": 0.1, "after": -1}}, "after is -1"),
        ({"spikes": {"share": 0.1, "factor": 1.01}}, "factor is 1.01; it takes above 0"),
        ({"spikes": {"share": 0.1, "factor": 0}}, "factor is 0"),
        ({"bad_values": {"share": 0.1, "what": ["rude"]}}, "what is rude; choose among nan, negative, zero_size"),
        ({"bad_values": {"share": 0.1, "what": []}}, "what is empty"),
        ({"bad_values": {"share": 0.1, "what": "nan"}}, "what is 'nan'; give a list"),
        ({"gaps": 0.1}, "gaps is 0.1; give a mapping of every_s, for_s, symbols"),
        ({"gaps": {"every_s": 1}}, "gaps needs for_s"),
        ({"gaps": {"every_s": 1, "for_s": 1}}, "for_s 1 is not below every_s 1"),
        ({"gaps": {"every_s": 0, "for_s": 1}}, "every_s is 0"),
        ({"gaps": {"every_s": 2, "for_s": 1, "symbols": ["XYZ"]}}, "no symbol XYZ; it has AAPL, MSFT"),
        ({"gaps": {"every_s": 2, "for_s": 1, "symbols": "AAPL"}}, "symbols is 'AAPL'; give a list"),
        ({"silence": {"every_s": 2, "for_s": 1, "symbols": ["aapl", "MSFT"]}}, "leave nobody to speak"),
        ({"bursts": {"every_s": 2, "for_s": 1, "factor": 1}}, "factor is 1; it takes above 1"),
        ({"bursts": {"every_s": 2, "for_s": 1e-6}}, "too short for an event"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_named(defects, message):
    """Errors say which defect and which parameter, and what is allowed."""
    with pytest.raises(ConfigurationError, match="synthetic source") as raised:
        made(symbols=["AAPL", "MSFT"], defects=defects)
    assert message in str(raised.value)


def test_what_the_times_cannot_hold_is_refused():
    """Events before 1970 and bursts of a rate that is none are no market."""
    with pytest.raises(ConfigurationError, match="no room"):
        made(start_ns=SECOND, defects={"late": 0.1})
    with pytest.raises(ConfigurationError, match="rate is 0"):
        SyntheticSource(rate=0, defects={"bursts": {"every_s": 2, "for_s": 1}})


def test_defects_are_part_of_the_name():
    """Sources with other defects are other sequences; the order in which they are written does not matter."""
    one, two = {"late": 0.1, "crossed": 0.1}, {"crossed": 0.1, "late": {"share": 0.1, "by_s": 5.0}}
    assert made(defects=one).source_id == made(defects=two).source_id
    ids = {made(defects=d).source_id for d in (None, one, {"late": 0.1}, {"late": 0.2}, ALL)}
    assert len(ids) == 5


@given(batch_rows=st.integers(10, 3000), skew_s=st.sampled_from([0.05, 3600.0]))
@settings(max_examples=12, deadline=None)
def test_defects_do_not_depend_on_batches(batch_rows, skew_s):
    """The same seed has the same defects however its events are cut, and counts them alike."""
    usual, other = (
        made(count=4000, defects=ALL),
        made(count=4000, defects=ALL, batch_rows=batch_rows, max_skew_s=skew_s),
    )
    whole, cut = read(usual), read(other)
    for kind in KINDS:
        assert same(table(cut, kind), table(whole, kind))
    assert other.injected == usual.injected
    assert whole[-2:] == cut[-2:]


@given(quotes=st.integers(0, 3200), trades=st.integers(0, 840), batch_rows=st.integers(50, 3000))
@settings(max_examples=20, deadline=None)
def test_any_offset_gives_the_tail(quotes, trades, batch_rows):
    """Where nothing is withheld offsets count rows, repeats included, and a resume falls between any two."""
    source = made(count=4000, batch_rows=batch_rows, defects=ONE_FOR_ONE)
    whole = read(made(count=4000, defects=ONE_FOR_ONE))
    done = {Kind.QUOTES: quotes, Kind.TRADES: trades}
    tail = read(source, {f"{source.source_id}:{kind}": offset for kind, offset in done.items()})
    for kind, offset in done.items():
        assert table(tail, kind).equals(table(whole, kind)[offset:])
    ends = [item.offset for item in tail if isinstance(item, Mark)]
    assert ends == [table(whole, kind).num_rows + 1 for kind in KINDS]


@given(at=st.integers(0, 60), batch_rows=st.integers(40, 500))
@settings(max_examples=15, deadline=None)
def test_a_resume_between_batches_gives_the_rest(at, batch_rows):
    """From where any batch ended, whatever was withheld, come the batches that had not been given, as they were."""
    source = made(count=4000, batch_rows=batch_rows, defects=ALL)
    items = read(source)
    resume = {item.source_id: item.offset for item in items[:at]}
    rest = read(source, resume)
    assert [(i.source_id, i.offset) for i in rest] == [(i.source_id, i.offset) for i in items[at:]]
    for kind in KINDS:
        assert same(table(rest, kind), table(items[at:], kind))


@given(offsets=st.tuples(st.integers(0, 3300), st.integers(0, 900)))
@settings(max_examples=15, deadline=None)
def test_withheld_events_keep_their_offsets(offsets):
    """One offset further on is one row less or, where that one was withheld, the same rows."""
    source = made(count=4000, defects=ALL)
    for kind, offset in zip(KINDS, offsets, strict=True):
        near, far = (table(read(source, {f"{source.source_id}:{kind}": at}), kind) for at in (offset, offset + 1))
        lost = near.num_rows - far.num_rows
        assert lost in (0, 1)
        assert same(near[lost:], far)


def test_no_batch_has_more_rows_than_offsets():
    """Batches do not overlap in their sequence, though repeats come on top and others are withheld."""
    ends = {}
    for item in read(made(batch_rows=100, defects=ALL)):
        rows = item.data.num_rows if isinstance(item, SourceBatch) else 1
        assert rows <= item.offset - ends.get(item.source_id, 0)
        ends[item.source_id] = item.offset


def test_a_resume_far_out_costs_no_more_than_the_beginning():
    """A million million events in, defects are found by arithmetic."""
    source = made(count=10**12 + 1000, defects=ALL)
    ends = {i.source_id: i.offset for i in read(made(count=10**12 + 1000, defects=ALL), _offsets(source, 10**12))}
    rest = read(source, {source_id: end - 400 for source_id, end in ends.items()})
    assert 0 < table(rest, Kind.TRADES).num_rows <= 400
    assert isinstance(rest[-1], Mark)


def _offsets(source, place):
    # Five per cent of the trades come twice, so an offset stands for a little less than an event.
    return {f"{source.source_id}:quotes": place // 5 * 4, f"{source.source_id}:trades": place // 5 * 105 // 100}


@given(share=st.floats(1e-6, 1), end=st.integers(1, 5000), start=st.sampled_from([0, 10**15]))
@settings(max_examples=60, deadline=None)
def test_shares_are_exact(share, end, start):
    """So many of so many numbers are chosen, give or take one, and how many can be said without counting."""
    chosen = Share(share, key_of("any"))
    rows = chosen.chosen(np.arange(start, start + end))
    assert chosen.before(start + end) - chosen.before(start) == np.count_nonzero(rows)
    assert abs(np.count_nonzero(rows) - share * end) < 2 + end * 1e-6


@given(
    rate=st.sampled_from([3, 33.3, 1000, 250_000]),
    factor=st.sampled_from([1.5, 10, 1000]),
    count=st.integers(0, 10**9),
    moment_ns=st.integers(0, 10**15),
)
@settings(max_examples=60, deadline=None)
def test_bursts_count_as_they_time(rate, factor, count, moment_ns):
    """The events that fit into a time are those whose times lie in it, and times never go back."""
    pace = BurstRate(
        usual=Rate(rate), burst=Rate(rate * factor), every_ns=10 * SECOND, for_ns=SECOND, key=key_of("any")
    )
    fit = pace.count(moment_ns)
    assert pace.time_ns(fit) <= moment_ns < pace.time_ns(fit + 1)
    times = pace.times_ns(np.arange(count, count + 100))
    assert (np.diff(times) > 0).all()
    since = pace.since(count)
    assert since.times_ns(np.arange(100)).tolist() == (times - times[0]).tolist()
    assert since.count(since.span_ns(50)) == 50
    assert pace.behind_ns(moment_ns + SECOND, fit, SECOND) == moment_ns - pace.time_ns(fit)


def test_a_burst_multiplies_the_rate():
    """For as long as it lasts, so many times as many events come, and all of them are counted."""
    source = made(count=29_000 * 5, rate=1000, defects={"bursts": {"every_s": 10, "for_s": 1, "factor": 20}})
    items = read(source)
    times = np.sort(np.concatenate([column(table(items, kind), "ts_event") for kind in KINDS]))
    times -= times[0]
    assert 49 * SECOND < times[-1] < 50 * SECOND
    per_tenth = np.bincount(times // (SECOND // 10))
    assert np.median(per_tenth) == pytest.approx(100, abs=2)
    assert per_tenth.max() == pytest.approx(2000, rel=0.02)
    assert source.injected == {"bursts": 100_000}


def test_a_burst_changes_nothing_but_times():
    """The same events come, only sooner."""
    plain, dense = (rows_of(Kind.TRADES, defects=d) for d in (None, {"bursts": {"every_s": 2, "for_s": 1}}))
    times = ["ts_event", "ts_recv"]
    assert dense.drop_columns(times).equals(plain.drop_columns(times))


async def read_by_the_clock(source, clock, steps_s):
    """What comes in each step of real time, as times relative to the clock at its end, in nanoseconds."""
    batches, found = [], []

    async def reading():
        nonlocal batches
        async for item in source.batches({}):
            batches += [item]

    async def settle():
        for _ in range(50):
            await asyncio.sleep(0)

    task = asyncio.create_task(reading())
    await settle()
    for step_s in steps_s:
        clock.advance(step_s)
        await settle()
        times = np.concatenate([np.empty(0, np.int64), *(column(b.data, "ts_event") for b in batches)])
        found.append(np.sort(times) - clock.now_ns())
        batches.clear()
    await source.close()
    await asyncio.wait_for(task, 5)
    return found


async def test_bursts_come_in_real_time_too():
    """Rate and bursts together say when events are due; none is lost and none comes early."""
    clock = ManualClock(1_700_000_000 * SECOND)
    source = SyntheticSource(rate=100, clock=clock, defects={"bursts": {"every_s": 1, "for_s": 0.25, "factor": 4}})
    found = await read_by_the_clock(source, clock, [0.05] * 80)
    assert sum(map(len, found)) == 1 + 4 * (75 + 100)
    assert {len(times) for times in found} <= set(range(4, 22))
    assert max(map(len, found[1:])) == 20
    assert all(-SECOND // 20 <= times[0] <= times[-1] <= 0 for times in found)


async def test_a_stall_is_not_made_up_for_in_bursts_either():
    """Whoever was away is given what fell due within the last second, and bursts go on from there."""
    clock = ManualClock(1_700_000_000 * SECOND)
    source = SyntheticSource(rate=1000, clock=clock, defects={"bursts": {"every_s": 5, "for_s": 1, "factor": 10}})
    found = await read_by_the_clock(source, clock, [0.5, 60.0] + [0.5] * 18)
    assert all(-SECOND <= times[0] <= times[-1] <= 0 for times in found)
    assert sum(map(len, found[2:])) >= 2 * 4000 * 9 // 10 + 10_000


def test_counting_begins_anew_with_every_run():
    """What was injected is what this run has had, from where it resumed."""
    source = made(defects={"crossed": 0.01})
    assert source.injected == {"crossed": 0}
    items = read(source)
    assert source.injected == {"crossed": 160}
    assert read(source, {i.source_id: i.offset for i in items}) == []
    assert source.injected == {"crossed": 0}


async def test_defects_reach_those_who_read_single_events():
    """Repeats and prices gone wrong come as values; a trade without a price has none."""
    defects = {"duplicates": 0.1, "bad_values": {"share": 0.1, "what": ["nan", "negative"]}}
    source = made(count=5000, defects=defects)
    trades = [e async for e in source.stream() if isinstance(e, Trade)]
    found = source.injected
    ids = [t.trade_id for t in trades]
    assert len(ids) - len(set(ids)) == found["duplicates"] > 80
    assert 0 < sum(t.price < 0 for t in trades) <= found["bad_values.negative"]
    assert found["bad_values.nan"] + found["bad_values.negative"] == found["bad_values"] == 500
