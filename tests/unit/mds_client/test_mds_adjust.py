"""Prices and sizes adjusted for corporate actions."""

from __future__ import annotations

import csv
import io
import math
import zipfile
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from market_data_core.errors import ConfigurationError, SchemaValidationError, ValidationError
from market_data_core.models import ns_from_datetime
from market_data_core.schemas import STORED_SCHEMAS
from mds_client import adjusted, corporate_actions_from_factor_file

NEW_YORK = ZoneInfo("America/New_York")
ACTIONS = STORED_SCHEMAS["corporate_actions"]
HOUR_NS = 3_600_000_000_000


def action(ts_event, *, split=1.0, cash=1.0, vendor="acme", symbol="AAPL"):
    return {
        "vendor": vendor,
        "symbol": symbol,
        "ts_event": ts_event,
        "action": "split",
        "split_factor": split,
        "price_factor": cash,
    }


def actions(*rows):
    return pa.Table.from_pylist(list(rows), schema=ACTIONS)


def trades(*times, vendor="acme", symbol="AAPL"):
    count = len(times)
    return pa.table(
        {
            "vendor": [vendor] * count,
            "symbol": [symbol] * count,
            "ts_event": pa.array(times, pa.int64()),
            "price": [100.0] * count,
            "size": [10.0] * count,
        }
    )


def midnight_ns(text):
    return ns_from_datetime(datetime.strptime(text, "%Y%m%d").replace(tzinfo=NEW_YORK))


def daily_bars(recordings, symbol, stamp=midnight_ns):
    """Closes and volumes of a recording, unadjusted as they are."""
    with zipfile.ZipFile(recordings / "bars_1d" / f"{symbol}.zip") as packed:
        lines = list(csv.reader(io.StringIO(packed.read(f"{symbol}.csv").decode())))
    return pa.table(
        {
            "vendor": ["lean"] * len(lines),
            "symbol": [symbol.upper()] * len(lines),
            "interval": ["1d"] * len(lines),
            "ts_event": pa.array([stamp(line[0][:8]) for line in lines], pa.int64()),
            "close": [int(line[4]) / 10_000 for line in lines],
            "volume": [float(line[5]) for line in lines],
            "date": [line[0][:8] for line in lines],
        }
    )


@pytest.mark.parametrize("symbol", ["aapl", "bac", "ibm", "spy"])
def test_cumulative_factors_are_those_of_the_file(recordings, symbol):
    """At every date of a factor file, what a price and a size are multiplied by is what the file says."""
    path = recordings / "corporate_actions" / "factor_files" / f"{symbol}.csv"
    found = corporate_actions_from_factor_file(path, symbol, "lean")
    lines = list(csv.reader(path.read_text().splitlines()))
    # Noon of the date itself: a row holds up to its own date.
    times = [midnight_ns(line[0]) + 12 * HOUR_NS for line in lines]
    rows = trades(*times, vendor="lean", symbol=symbol.upper())
    by_split, by_all = (adjusted(rows, found, adjust=how) for how in ("split", "all"))
    splits, cash = ([float(line[n]) for line in lines] for n in (2, 1))
    np.testing.assert_allclose(by_split.column("price"), 100 * np.array(splits), rtol=1e-12)
    np.testing.assert_allclose(by_split.column("size"), 10 / np.array(splits), rtol=1e-12)
    np.testing.assert_allclose(by_all.column("price"), 100 * np.array(splits) * np.array(cash), rtol=1e-12)
    assert by_all.column("size").equals(by_split.column("size"))


def utc_midnight_ns(text):
    return int(datetime.strptime(text + "+0000", "%Y%m%d%z").timestamp()) * 1_000_000_000


@pytest.mark.parametrize("stamp", [midnight_ns, utc_midnight_ns])
def test_closes_are_continuous_across_a_split(recordings, stamp):
    """Apple went from 645.57 to 93.70 when 1 became 7; adjusted, by days of New York or UTC, it rose by 1.6 %."""
    rows = daily_bars(recordings, "aapl", stamp)
    path = recordings / "corporate_actions" / "factor_files" / "aapl.csv"
    found = adjusted(rows, corporate_actions_from_factor_file(path, "AAPL", "lean"), adjust="split")
    raw, closes = (t.column("close").to_numpy() for t in (rows, found))
    at = rows.column("date").to_pylist().index("20140609")
    assert raw[at] / raw[at - 1] < 0.15
    assert closes[at] / closes[at - 1] == pytest.approx(1.0160, abs=1e-4)
    # Its worst days in 23 years, of September 2000 among them, were no splits.
    steps = np.abs(np.diff(np.log(closes)))
    assert steps.max() < math.log(2.2)
    assert np.abs(np.diff(np.log(raw))).max() > math.log(3.9)
    volumes = found.column("volume").to_numpy()
    assert volumes[at - 1] == pytest.approx(rows.column("volume")[at - 1].as_py() * 28, rel=1e-5)


def test_actions_of_the_file_say_what_happened(recordings):
    """The split of June 2014 trades from the first moment of the day after the row's date, seven for one."""
    path = recordings / "corporate_actions" / "factor_files" / "aapl.csv"
    found = corporate_actions_from_factor_file(path, "aapl", "lean", known_at_event=True).to_pylist()
    split = next(a for a in found if a["ts_event"] == midnight_ns("20140607"))
    assert (split["action"], split["symbol"], split["reference_price"]) == ("split", "AAPL", 645.57)
    assert split["split_factor"] == pytest.approx(1 / 7, abs=1e-6)
    assert split["ts_known"] == split["ts_event"]
    assert [a["ts_event"] for a in found] == sorted(a["ts_event"] for a in found)
    assert {a["action"] for a in found} == {"split", "dividend"}


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("20140606,1,1\n", "line 1"),
        ("20140606,1,1,1\n20140607,1,x,1\n", "line 2"),
        ("20140606,1,0,1\n", "line 1"),
        ("20140606,nan,1,1\n", "line 1"),
        ("20141306,1,1,1\n", "line 1"),
    ],
)
def test_a_bad_line_of_a_factor_file_is_named(tmp_path, text, where):
    """What is not a date and three numbers is refused, with its place."""
    path = tmp_path / "f.csv"
    path.write_text(text)
    with pytest.raises(SchemaValidationError, match=where):
        corporate_actions_from_factor_file(path, "x", "v")


def test_a_missing_file_or_zone_is_said(tmp_path):
    """Neither is taken for an instrument without actions."""
    with pytest.raises(ConfigurationError, match=r"f\.csv"):
        corporate_actions_from_factor_file(tmp_path / "f.csv", "x", "v")
    (tmp_path / "f.csv").write_text("20140606,1,1,1\n")
    with pytest.raises(ConfigurationError, match="Mars"):
        corporate_actions_from_factor_file(tmp_path / "f.csv", "x", "v", zone="Mars/Olympus")


def test_an_action_counts_for_what_lies_before_it():
    """The moment of the action itself is after it."""
    found = adjusted(trades(99, 100, 101), actions(action(100, split=0.5)), adjust="split")
    assert found.column("price").to_pylist() == [50.0, 100.0, 100.0]
    assert found.column("size").to_pylist() == [20.0, 10.0, 10.0]


def test_cash_counts_only_where_it_is_asked_for():
    """`split` leaves what was paid out in the prices; sizes never know of it."""
    paid = actions(action(100, cash=0.9))
    assert adjusted(trades(99), paid, adjust="split").column("price").to_pylist() == [100.0]
    found = adjusted(trades(99), paid, adjust="all")
    assert found.column("price").to_pylist() == [90.0]
    assert found.column("size").to_pylist() == [10.0]


def test_what_is_null_stays_null():
    """Neither a price nor a factor that is absent becomes a number, or not a number."""
    rows = trades(99).set_column(3, "price", pa.array([None], pa.float64()))
    found = adjusted(rows, actions(action(100, split=None, cash=None), action(100, split=0.5)), adjust="all")
    assert found.column("price").to_pylist() == [None]
    assert found.column("size").to_pylist() == [20.0]


def test_actions_are_those_of_vendor_and_symbol():
    """Another instrument's split changes nothing; another vendor's does if that is what was asked for."""
    split = action(100, split=0.5)
    others = actions({**split, "symbol": "IBM"}, {**split, "vendor": "other"})
    assert adjusted(trades(99), others, adjust="split").column("price").to_pylist() == [100.0]
    found = adjusted(trades(99), others, adjust="split", any_vendor=True)
    assert found.column("price").to_pylist() == [50.0]


@pytest.mark.parametrize("factor", [0.0, -1.0, float("inf")])
def test_a_factor_that_is_none_is_refused(factor):
    """Prices are never multiplied by nought, or turned around."""
    with pytest.raises(ValidationError, match="split_factor"):
        adjusted(trades(99), actions(action(100, split=factor)), adjust="split")


def test_an_unknown_adjustment_is_refused():
    """Before anything is done."""
    with pytest.raises(ConfigurationError, match="forward"):
        adjusted(trades(99), actions(), adjust="forward")


@given(
    st.lists(st.tuples(st.integers(0, 100), st.floats(0.1, 10)), max_size=8, unique_by=lambda a: a[0]),
    st.lists(st.integers(0, 100), min_size=1, max_size=20),
)
def test_every_later_action_multiplies(happened, times):
    """A price is multiplied by the factors of all actions after it, and by no other; money turned over stays."""
    rows = trades(*times)
    found = adjusted(rows, actions(*(action(t, split=f) for t, f in happened)), adjust="split")
    expected = [100 * math.prod(f for t, f in happened if t > time) for time in times]
    np.testing.assert_allclose(found.column("price"), expected, rtol=1e-12)
    turned = found.column("price").to_numpy() * found.column("size").to_numpy()
    np.testing.assert_allclose(turned, 1000.0, rtol=1e-12)
    assert found.schema == rows.schema


def test_a_long_bar_is_where_its_middle_is():
    """A day that an action falls into belongs to the side on which more of it lies."""
    day = timedelta(days=1) // timedelta(microseconds=1) * 1000
    bars = pa.table(
        {
            "vendor": ["acme"],
            "symbol": ["AAPL"],
            "interval": ["1d"],
            "ts_event": pa.array([0], pa.int64()),
            "close": [100.0],
        }
    )
    early, late = (adjusted(bars, actions(action(at, split=0.5)), adjust="split") for at in (day // 6, day // 6 * 5))
    assert early.column("close").to_pylist() == [100.0]
    assert late.column("close").to_pylist() == [50.0]
