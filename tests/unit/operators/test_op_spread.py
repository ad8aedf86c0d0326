from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from op_steps import BARRIER, BASE, Steps, end, quote, split, stopped

from market_data_core.errors import ConfigurationError
from market_data_core.schemas import Flag, Kind
from market_data_pipeline.operators.spread import OUTPUTS, Spread


def values(*events, outputs=OUTPUTS):
    """By name, what comes out for some quotes."""
    return [(r["name"], r["value"]) for r in Steps(lambda: Spread(outputs=outputs)).run([list(events)]).rows]


def test_a_quote_gives_every_value():
    """In the order asked for."""
    assert values(quote(0, 99.0, 101.0, 300.0, 100.0)) == [
        ("mid", 100.0),
        ("spread", 2.0),
        ("spread_bps", 200.0),
        ("imbalance", 0.5),
        ("microprice", 100.5),
    ]
    assert values(quote(0, 99.0, 101.0), outputs=["spread", "mid"]) == [("spread", 2.0), ("mid", 100.0)]


@pytest.mark.parametrize(
    ("event", "names"),
    [
        (quote(0, 99.0, None, 1.0, 1.0), ["imbalance"]),
        (quote(0, 99.0, 101.0), ["mid", "spread", "spread_bps"]),
        (quote(0, 99.0, 101.0, 0.0, 0.0), ["mid", "spread", "spread_bps"]),
        (quote(0, -2.0, -1.0, 1.0, 1.0), ["mid", "spread", "imbalance", "microprice"]),
        (quote(0, None, None), []),
    ],
)
def test_what_cannot_be_had_is_no_row(event, names):
    """A side, a size or a price to divide by may be absent."""
    assert [n for n, _ in values(event)] == names


def test_a_crossed_book_has_a_spread_below_0():
    """Nothing is hidden."""
    assert values(quote(0, 101.0, 100.0), outputs=["spread"]) == [("spread", -1.0)]


def test_a_quote_that_gives_nothing_is_filtered_and_the_others_are_absorbed():
    """So is one that lies far ahead."""
    ahead = quote(2, 1.0, 2.0, flags=int(Flag.TS_EVENT_FUTURE))
    steps = Steps(Spread).run([[quote(0), quote(1, 1.0, 2.0), ahead]])
    assert (steps.counts["filtered"], steps.counts["absorbed"], len(steps.rows)) == (2, 1, 3)


def test_rows_have_their_quotes_times_and_seq():
    """They are given at once."""
    steps = Steps(Spread).run([[quote(0), quote(7, 1.0, 2.0, symbol="Y")]])
    assert {(r["symbol"], r["ts_event"], r["ts_recv"], r["seq"], r["flags"]) for r in steps.rows} == {
        ("Y", BASE + 7, BASE + 8, 1, 0)
    }
    assert steps.op.gives(frozenset({Kind.QUOTES})) == {steps.out[0].kind}


@pytest.mark.parametrize("outputs", [[], ["middle"], ["mid", "mid"], "mid"])
def test_wrong_outputs_are_refused(outputs):
    """The message says what there is."""
    with pytest.raises(ConfigurationError, match="microprice"):
        Spread(outputs=outputs)


PRICES = st.one_of(st.none(), st.sampled_from([-1.0, 0.0, 1.0, 1.5, 1e308]))
SIZES = st.one_of(st.none(), st.sampled_from([0.0, 0.1, 3.0]))
QUOTES = st.builds(quote, st.integers(0, 9), PRICES, PRICES, SIZES, SIZES)


@settings(deadline=None)
@given(st.lists(QUOTES, max_size=30), st.lists(st.integers(1, 5), max_size=8), st.sets(st.integers(0, 9)))
def test_batches_and_restarts_change_nothing(events, cuts, stops):
    """There is no state."""
    whole = Steps(Spread).run([events, BARRIER] if events else [BARRIER])
    parts = stopped(Spread, [*split(events, cuts), BARRIER, end()], stops)
    assert parts.rows == whole.rows
    assert parts.counts == whole.counts
