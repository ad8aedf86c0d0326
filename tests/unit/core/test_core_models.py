from __future__ import annotations

import copy
import pickle
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from market_data_core import (
    AccountSummary,
    Bar,
    Contract,
    EventMeta,
    Health,
    MarketDepth,
    OptionChain,
    OptionContract,
    OptionGreeks,
    OptionSnapshot,
    PortfolioUpdate,
    Position,
    PriceBar,
    Quote,
    Trade,
)
from market_data_core.batch import Instrument as EngineInstrument
from market_data_core.models import Instrument, ns_from_datetime, utc_from_ns

NOON = datetime(2024, 1, 2, 12, tzinfo=UTC)
NOON_NS = 1_704_196_800_000_000_000
META = EventMeta(vendor="ibkr", ts_recv_ns=NOON_NS + 5, seq=9, flags=256, origin="live")
OPTION = OptionSnapshot(
    symbol="aapl  240119c00190000",
    underlying="aapl",
    expiry="20240119",
    strike=190.0,
    right="c",
    greeks=OptionGreeks(implied_vol=0.2, delta=0.5),
    ts_event_ns=NOON_NS,
)
CONTRACT = Contract(symbol="es", sec_type="FUT", exchange="CME", expiry="202403", con_id=495512563, local_symbol="ESH4")
POSITION = Position(
    account_id="du123a", symbol="aapl", quantity="10", average_cost="189.105", unrealized_pnl="0.10", contract=CONTRACT
)

TIMED = [
    Quote(
        symbol="aapl", bid=189.5, ask=189.7, last=189.6, bid_size=3, ask_size=4, volume=1e6, timestamp=NOON, meta=META
    ),
    Trade(symbol="aapl", price=189.6, size=100, trade_id="a7f", ts_event_ns=NOON_NS + 1),
    Bar(
        symbol="aapl", ts=NOON, open=1, high=2, low=0.5, close=1.5, volume=10, resolution="1m", vwap=1.2, trade_count=3
    ),
    MarketDepth(symbol="aapl", bids=[(189.5, 3.0), (189.4, 5.0)], asks=[[189.7, 4.0]], timestamp=NOON),
    OPTION,
    OptionChain(underlying="aapl", underlying_price=189.6, options=[OPTION], ts_event_ns=NOON_NS),
    AccountSummary(account_id="du123a", net_liquidation="1000000.10", timestamp=NOON),
    PortfolioUpdate(account_id="du123a", unrealized_pnl="0.10", positions=[POSITION], timestamp=NOON),
]
ALL = [
    *TIMED,
    OPTION.greeks,
    CONTRACT,
    POSITION,
    META,
    Health(provider="ibkr", state="degraded", connected=True, last_heartbeat=NOON),
]


def named(value):
    return type(value).__name__


@pytest.mark.parametrize("value", ALL, ids=named)
def test_value_round_trips_through_json(value):
    """A value read back from its JSON is the same, to the nanosecond and the last digit."""
    assert type(value).model_validate_json(value.model_dump_json()) == value


@pytest.mark.parametrize("value", ALL, ids=named)
def test_value_is_frozen_and_can_be_a_key(value):
    """No field can be set, and equal values are one key."""
    field = next(iter(type(value).model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(value, field, getattr(value, field))
    assert len({value, copy.deepcopy(value)}) == 1


@pytest.mark.parametrize("value", ALL, ids=named)
def test_value_survives_pickling(value):
    """A value can be sent to another process."""
    assert pickle.loads(pickle.dumps(value)) == value


@pytest.mark.parametrize("value", ALL, ids=named)
def test_unknown_field_is_refused(value):
    """A misspelt field is an error."""
    with pytest.raises(ValidationError, match="extra"):
        type(value).model_validate({**value.model_dump(), "smybol": "AAPL"})


@pytest.mark.parametrize("value", TIMED, ids=named)
def test_from_ns_builds_the_same_value(value):
    """The unchecked way builds what the checked way builds, in JSON, pickles and copies too."""
    fields = {name: getattr(value, name) for name in value.model_fields_set - {value.time_field, "ts_event_ns"}}
    quick = type(value).from_ns(value.ts_event_ns, **fields)
    assert quick == value
    assert quick.model_dump_json() == value.model_dump_json()
    assert quick.model_fields_set == value.model_fields_set
    assert pickle.loads(pickle.dumps(quick)) == copy.deepcopy(quick) == quick.model_copy()
    with pytest.raises(ValidationError, match="frozen"):
        quick.ts_event_ns = 0


@pytest.mark.parametrize("fields", [{}, {"symbol": "AAPL", "price": 1.0}, {"symbol": "A", "price": 1.0, "sise": 1.0}])
def test_from_ns_wants_the_fields_it_has(fields):
    """The unchecked way still notices missing and unknown fields."""
    with pytest.raises(TypeError, match=r"Trade\.from_ns.*si[zs]e"):
        Trade.from_ns(NOON_NS, **fields)


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (Quote, "symbol bid ask last bid_size ask_size volume timestamp delayed ts_event_ns"),
        (Bar, "symbol ts open high low close volume resolution delayed vwap trade_count ts_event_ns"),
        (EventMeta, "vendor ts_recv_ns seq flags origin"),
        (OptionGreeks, "implied_vol delta gamma theta vega rho"),
    ],
)
def test_published_fields_are_there(model, names):
    """The published names are fields."""
    assert set(names.split()) <= set(model.model_fields)


def test_one_type_per_concept():
    """Second names are the same types, and the instrument is the engine's."""
    assert PriceBar is Bar
    assert OptionContract is OptionSnapshot
    assert Instrument is EngineInstrument


@pytest.mark.parametrize("symbol", ["aapl", "AAPL", " Aapl "])
def test_symbol_is_upper_cased_on_entry(symbol):
    """However a symbol is written, one symbol comes out."""
    assert Quote(symbol=symbol, timestamp=NOON).symbol == "AAPL"


def test_ids_keep_their_case():
    """Trade ids, account ids and local symbols stay as given."""
    assert Trade(symbol="a", price=1, size=1, trade_id="a7f", timestamp=NOON).trade_id == "a7f"
    assert POSITION.account_id == "du123a"
    assert Contract(symbol="a", local_symbol="aBc").local_symbol == "aBc"


@pytest.mark.parametrize("model", [Quote, MarketDepth, Contract])
def test_empty_symbol_is_refused(model):
    """A symbol has at least one character."""
    with pytest.raises(ValidationError, match="symbol"):
        model.model_validate({"symbol": " ", **({} if model is Contract else {"ts_event_ns": 1})})


@pytest.mark.parametrize(
    ("prices", "price"),
    [
        ({"last": 3.0, "bid": 1.0, "ask": 2.0}, 3.0),
        ({"last": 0.0, "bid": 1.0, "ask": 2.0}, 0.0),
        ({"bid": 1.0, "ask": 2.0}, 1.5),
        ({"bid": 1.0}, None),
        ({"ask": 2.0}, None),
        ({}, None),
    ],
)
def test_price_is_last_else_mid_else_none(prices, price):
    """A quote's price is its last trade's, else the middle, else None; a price of 0 is a price."""
    assert Quote(symbol="a", timestamp=NOON, **prices).price == price


@given(ts_ns=st.integers(-(2**63), 2**63 - 1))
def test_nanoseconds_fill_the_datetime(ts_ns):
    """From nanoseconds alone, they are kept exactly and the datetime is theirs, cut to microseconds."""
    quote = Quote(symbol="a", ts_event_ns=ts_ns)
    assert quote.ts_event_ns == ts_ns
    assert quote.timestamp == utc_from_ns(ts_ns)
    assert 0 <= ts_ns - (quote.timestamp - utc_from_ns(0)) // timedelta(microseconds=1) * 1000 < 1000


@given(
    moment=st.datetimes(
        datetime(1700, 1, 1),  # noqa: DTZ001  the strategy adds the zone
        datetime(2262, 1, 1),  # noqa: DTZ001
        timezones=st.integers(-23, 23).map(lambda h: timezone(timedelta(hours=h))),
    )
)
def test_datetime_fills_the_nanoseconds(moment):
    """From a datetime of any zone alone, the same instant comes out in UTC and in nanoseconds."""
    bar = Bar(symbol="a", ts=moment, open=1, high=1, low=1, close=1, resolution="1m")
    assert bar.ts == moment
    assert bar.ts.tzinfo is UTC
    assert utc_from_ns(bar.ts_event_ns) == moment
    assert bar.ts_event_ns == ns_from_datetime(moment)


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2024, 1, 2, 12),  # noqa: DTZ001  a naive one is what is tried
        "2024-01-02T12:00:00",
        "2024-01-02",
        "noon",
        1_704_196_800,
        datetime(2263, 1, 1, tzinfo=UTC),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=1))),
    ],
)
def test_time_without_zone_or_out_of_reach_is_refused(moment):
    """Naive datetimes, bare numbers and times that nanoseconds cannot hold are refused."""
    with pytest.raises(ValidationError):
        Quote(symbol="a", timestamp=moment)
    with pytest.raises(ValidationError):
        Quote(symbol="a", timestamp=moment, ts_event_ns=NOON_NS)


@pytest.mark.parametrize("ts_ns", [1.5, "1704196800000000000", True, 2**63, -(2**63) - 1, np.float64(1)])
def test_nanoseconds_are_whole_and_fit(ts_ns):
    """What is no int64 number of nanoseconds is refused."""
    with pytest.raises(ValidationError):
        Quote(symbol="a", ts_event_ns=ts_ns)


def test_numpy_integers_are_integers():
    """A value taken from a column is stored as a plain int."""
    assert type(Quote(symbol="a", ts_event_ns=np.int64(NOON_NS)).ts_event_ns) is int


@pytest.mark.parametrize("timestamp", [NOON, "2024-01-02T12:00:00Z", "2024-01-02T13:00:00+01:00"])
def test_both_times_agree(timestamp):
    """Given both, nanoseconds are kept exactly if they lie in the datetime's microsecond."""
    assert Quote(symbol="a", timestamp=timestamp, ts_event_ns=NOON_NS + 999).ts_event_ns == NOON_NS + 999
    with pytest.raises(ValidationError, match="different times"):
        Quote(symbol="a", timestamp=timestamp, ts_event_ns=NOON_NS + 1000)


def test_a_time_is_needed():
    """Without any time there is no event."""
    with pytest.raises(ValidationError, match="ts_event_ns"):
        Bar(symbol="a", open=1, high=1, low=1, close=1, resolution="1m")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("field", ["bid", "ask", "last", "bid_size", "volume"])
def test_absent_is_none_never_nan(field, bad):
    """NaN and infinity are refused everywhere."""
    with pytest.raises(ValidationError):
        Quote(symbol="a", timestamp=NOON, **{field: bad})


@pytest.mark.parametrize("field", ["bid_size", "ask_size", "volume"])
def test_sizes_are_not_negative(field):
    """A vendor's -1 for unknown is no size; prices may be negative."""
    with pytest.raises(ValidationError):
        Quote(symbol="a", timestamp=NOON, **{field: -1})
    assert Quote(symbol="a", timestamp=NOON, bid=-37.63).bid == -37.63


def test_depth_levels_are_pairs_in_json():
    """A level is price and size by name in Python and a pair in JSON."""
    depth = MarketDepth(symbol="a", bids=[[1, 2]], ts_event_ns=1)
    assert (depth.bids[0].price, depth.bids[0].size) == (1.0, 2.0)
    assert depth.model_dump(mode="json")["bids"] == [[1.0, 2.0]]


@pytest.mark.parametrize(
    "change", [{"expiry": "20240230"}, {"expiry": "2024-01-19"}, {"expiry": "2024W011"}, {"right": "X"}]
)
def test_option_terms_are_checked(change):
    """An expiry is a real day written YYYYMMDD, a right is C or P."""
    with pytest.raises(ValidationError):
        OptionSnapshot.model_validate({**OPTION.model_dump(), **change})


@pytest.mark.parametrize("amount", ["0.1", 0.1, Decimal("0.1")])
def test_account_money_is_decimal(amount):
    """Account money is exact, from text, float and Decimal alike, and text in JSON."""
    summary = AccountSummary(account_id="a", total_cash=amount, timestamp=NOON)
    assert summary.total_cash == Decimal("0.1")
    assert summary.model_dump(mode="json")["total_cash"] == "0.1"


def test_portfolio_of_another_account_is_refused():
    """An update holds that account's positions only."""
    with pytest.raises(ValidationError, match="du123a"):
        PortfolioUpdate(account_id="du999", positions=[POSITION], timestamp=NOON)


def test_naive_heartbeat_is_refused():
    """Every datetime has a zone, not only those of events."""
    with pytest.raises(ValidationError, match="time zone"):
        Health(provider="p", state="healthy", connected=True, last_heartbeat="2024-01-02T12:00:00")


@pytest.mark.parametrize("value", ALL, ids=named)
def test_every_type_has_a_json_schema(value):
    """A JSON Schema can be exported of every type, and neither time is required of who builds it."""
    schema = type(value).model_json_schema()
    assert not {"timestamp", "ts", "ts_event_ns"} & set(schema.get("required", []))
