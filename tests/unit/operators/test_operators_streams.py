from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_events import Trade, batch_of

from market_data_core.batch import Instrument, Instruments
from market_data_pipeline.operators.streams import Streams, running_max, stream_order, time_order

TIMES = st.one_of(st.integers(-50, 50), st.integers(-(2**61), 2**61))
SEGMENTS = st.lists(st.tuples(st.lists(TIMES, min_size=1, max_size=8), TIMES), min_size=1, max_size=8)


def flat(segments):
    values = np.array([v for s, _ in segments for v in s], np.int64)
    starts = np.cumsum([0, *(len(s) for s, _ in segments[:-1])])
    return values, starts, np.array([f for _, f in segments], np.int64)


@settings(deadline=None)
@given(SEGMENTS)
def test_the_running_maximum_is_of_what_came_before_in_the_segment(segments):
    """However far the values lie apart."""
    values, starts, floor = flat(segments)
    expected = [max(s[:n], default=f) if n == 0 else max(*s[:n], f) for s, f in segments for n in range(len(s))]
    assert running_max(values, starts, floor).tolist() == expected


@settings(deadline=None)
@given(SEGMENTS)
def test_the_order_by_time_is_stable_and_stays_within_segments(segments):
    """Equal times keep their order."""
    values, starts, _ = flat(segments)
    expected, at = [], 0
    for s, _ in segments:
        expected += [at + n for n in sorted(range(len(s)), key=s.__getitem__)]
        at += len(s)
    assert time_order(values, starts).tolist() == expected


@settings(deadline=None)
@given(st.lists(st.integers(0, 70_000)))
def test_streams_are_brought_together_in_their_own_order(places):
    """Also where there are more of them than 16 bits can number."""
    column = np.array(places, np.int64)
    assert stream_order(column).tolist() == sorted(range(len(places)), key=places.__getitem__)


def test_places_are_given_in_the_order_of_first_speech():
    """Not in that of instrument ids, which depends on the log."""
    table = Instruments([Instrument(vendor="v", symbol=s) for s in "ABC"])
    streams = Streams()
    assert streams.places(batch_of([Trade(0, symbol=s) for s in "CACB"], instruments=table)).tolist() == [0, 1, 0, 2]


def test_a_retired_stream_keeps_its_place_and_its_name_gets_another():
    """Until it is forgotten; also when the table went through a snapshot in between."""
    table = Instruments()
    streams = Streams()
    streams.places(batch_of([Trade(0, symbol=s) for s in "AB"], instruments=table))
    streams.retire([0])
    assert streams.places(batch_of([Trade(0, symbol=s) for s in "AB"], instruments=table)).tolist() == [2, 1]
    again = Streams()
    again.restore(streams.snapshot())
    again.retire([0])
    assert sorted(again.matching("v", (), "a")) == sorted(streams.matching("v", (), "a")) == [1, 2]
    stay, moved = streams.forget([0])
    assert (stay.tolist(), moved.tolist()) == ([1, 2], [-1, 0, 1])
    assert streams.places(batch_of([Trade(0, symbol=s) for s in "AB"], instruments=table)).tolist() == [1, 0]
