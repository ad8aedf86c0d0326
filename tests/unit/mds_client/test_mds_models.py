"""The rows of stored data as values."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import pandas as pd
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mds_values import START, bar, fundamentals, news, option

import market_data_core as core
from market_data_core.errors import SchemaValidationError, ValidationError
from market_data_core.schemas import STORED_SCHEMAS
from mds_client import Bar, LatestPrice, News, OptionSnap
from mds_client.rows import TABLES, models_from_rows, rows_from_models

TIMES_NS = st.integers(-(2**62), 2**62)
NUMBERS = st.none() | st.floats(allow_nan=False, allow_infinity=False)
SIZES = st.none() | st.floats(0, 1e18)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
NAMES = st.text("abcXYZ019-_ é漢", min_size=1).filter(str.strip)

BARS = st.builds(
    Bar,
    tenant_id=NAMES,
    vendor=NAMES,
    symbol=NAMES,
    timeframe=st.sampled_from(["1s", "5m", "4h", "1d"]),
    ts=st.none(),
    ts_ns=TIMES_NS,
    open_price=NUMBERS,
    high_price=NUMBERS,
    low_price=NUMBERS,
    close_price=NUMBERS,
    volume=SIZES,
    vwap=NUMBERS,
    trade_count=st.none() | st.integers(0, 2**62),
    what=st.sampled_from(["TRADES", "BID"]),
    source=st.sampled_from(["internal", "external"]),
)
NEWS = st.builds(
    News,
    tenant_id=NAMES,
    vendor=NAMES,
    published_at=st.none(),
    ts_ns=TIMES_NS,
    title=TEXTS,
    symbol=st.none() | NAMES,
    url=st.none() | TEXTS,
    sentiment_score=st.none() | st.floats(-1, 1),
)
OPTIONS = st.builds(
    OptionSnap,
    tenant_id=NAMES,
    vendor=NAMES,
    symbol=NAMES,
    expiry=st.dates(date(1970, 1, 1), date(2100, 1, 1)),
    option_type=st.sampled_from("CP"),
    strike=st.floats(1e-6, 1e9),
    ts=st.none(),
    ts_ns=TIMES_NS,
    iv=NUMBERS,
    delta=NUMBERS,
    gamma=NUMBERS,
    oi=SIZES,
    volume=SIZES,
    spot=NUMBERS,
    theta=NUMBERS,
    vega=NUMBERS,
)


@given(BARS | NEWS | OPTIONS)
def test_a_model_survives_its_row(model):
    """As a row of its table and back, each model is the same, to the nanosecond."""
    rows = rows_from_models([model])
    assert rows.schema == STORED_SCHEMAS[TABLES[type(model)]]
    assert models_from_rows(type(model), rows, tenant_id=model.tenant_id) == [model]


@given(BARS | NEWS | OPTIONS)
def test_a_model_survives_json(model):
    """As JSON and back, each model is the same, to the nanosecond."""
    assert type(model).model_validate_json(model.model_dump_json()) == model


@given(BARS)
def test_a_bar_survives_the_core_type(made):
    """To the platform's own bar and back nothing changes, but that it needs its four prices."""
    prices = (made.open_price, made.high_price, made.low_price, made.close_price)
    if None in prices:
        with pytest.raises(ValidationError, match="lacks a price"):
            made.to_core()
    else:
        there = made.to_core()
        assert there.ts_event_ns == made.ts_ns
        assert Bar.from_core(there, tenant_id=made.tenant_id, vendor=made.vendor) == made


@given(OPTIONS)
def test_an_option_survives_the_core_type(made):
    """To the platform's own option and back nothing changes."""
    there = made.to_core()
    assert there.ts_event_ns == made.ts_ns
    assert OptionSnap.from_core(there, tenant_id=made.tenant_id, vendor=made.vendor) == made


def test_what_core_makes_is_valid_there():
    """What `to_core` builds without checks passes the checks of the core types."""
    there = bar("t").to_core()
    assert core.Bar.model_validate(there.model_dump()) == there
    chosen = option("t").to_core()
    assert core.OptionSnapshot.model_validate(chosen.model_dump()) == chosen
    assert chosen.symbol == "AAPL  240119C00190500"


def test_the_vendor_comes_from_the_event_or_the_caller():
    """A core value knows its vendor if it was kept with it; if nobody knows, it is refused."""
    meta = core.EventMeta(vendor="venue", ts_recv_ns=1)
    made = core.Bar.model_validate({**bar("t").to_core().model_dump(), "meta": meta})
    assert Bar.from_core(made, tenant_id="t").vendor == "venue"
    with pytest.raises(ValidationError, match="vendor"):
        Bar.from_core(bar("t").to_core(), tenant_id="t")


def test_symbols_are_upper_cased_and_vendors_are_not():
    """A ticker has one spelling; names keep theirs."""
    made = bar("t", symbol=" aapl ", vendor="Acme")
    assert (made.symbol, made.vendor) == ("AAPL", "Acme")


def test_models_are_frozen():
    """A value cannot be changed after it was checked."""
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        bar("t").close_price = 1.0


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("ts", datetime(2024, 1, 2), "has no time zone; give an aware datetime"),  # noqa: DTZ001  what is refused
        ("ts", "2024-01-02T14:30:00", "has no time zone; give an aware datetime"),
        ("ts", 1704205800, "no datetime and no ISO 8601 string"),
        ("ts", datetime(3000, 1, 1, tzinfo=UTC), "outside the range"),
        ("ts", None, "no datetime"),
        ("ts_ns", 5, "not in the microsecond of ts"),
        ("ts_ns", True, "no whole number"),
        ("ts_ns", 2**63, "outside the range"),
        ("timeframe", "1 minute", "is not a count"),
        ("close_price", float("nan"), "finite"),
        ("close_price", float("inf"), "finite"),
        ("volume", -1, "greater than or equal to 0"),
        ("source", "mine", "internal"),
        ("symbol", " ", "at least 1 character"),
        ("vendor", "", "at least 1 character"),
        ("vendor", "\udc80", "unicode"),
        ("closing_price", 1.0, "not permitted"),
    ],
)
def test_a_wrong_field_is_named(field, value, why):
    """What does not fit is refused, with the field and what is wrong with it."""
    with pytest.raises(pydantic.ValidationError) as raised:
        bar("t", **{field: value})
    first = raised.value.errors()[0]
    assert first["loc"] == (field,)
    assert re.search(why, first["msg"])


@pytest.mark.parametrize(
    ("field", "value"),
    [("option_type", "X"), ("strike", 0.0), ("strike", -5.0), ("expiry", 20240119), ("expiry", "20240230"), ("oi", -1)],
)
def test_a_wrong_option_is_refused(field, value):
    """An option has a type, a real expiry that is no bare number, and a strike above nought."""
    with pytest.raises(pydantic.ValidationError) as raised:
        option("t", **{field: value})
    assert raised.value.errors()[0]["loc"] == (field,)


@pytest.mark.parametrize("expiry", ["20240119", "2024-01-19", date(2024, 1, 19)])
def test_an_expiry_may_be_written_in_three_ways(expiry):
    """As a date, and as text with dashes and without."""
    assert option("t", expiry=expiry, option_type="c") == option("t")


@pytest.mark.parametrize("score", [-1.01, 1.01, float("nan")])
def test_a_sentiment_lies_between_minus_one_and_one(score):
    """Anything else is refused."""
    with pytest.raises(pydantic.ValidationError, match="sentiment_score"):
        news("t", sentiment_score=score)


def test_other_zones_become_utc():
    """The same instant in any zone is the same value."""
    there = START.astimezone(timezone(timedelta(hours=-5)))
    assert bar("t", ts=there) == bar("t")
    assert bar("t", ts=there).ts.tzinfo is UTC


@pytest.mark.parametrize(
    "moment",
    [
        "2024-01-02T14:30:00.123456789Z",
        "2024-01-02T09:30:00.123456789-05:00",
        pd.Timestamp("2024-01-02T14:30:00.123456789Z"),
    ],
)
def test_nanoseconds_of_other_forms_are_kept(moment):
    """Text and the times of pandas are finer than a datetime, and stay so."""
    made = bar("t", ts=moment)
    assert made.ts_ns == 1_704_205_800_123_456_789
    assert type(made.ts) is datetime
    assert made.ts == START + timedelta(microseconds=123_456)


def test_text_finer_than_nanoseconds_is_refused():
    """Nothing is cut off without a word; noughts are nothing."""
    with pytest.raises(pydantic.ValidationError, match="finer than nanoseconds"):
        bar("t", ts="2024-01-02T14:30:00.1234567891Z")
    assert bar("t", ts="2024-01-02T14:30:00.0000000000Z") == bar("t")


def test_nanoseconds_alone_are_enough():
    """A whole number of any integer type, without the datetime."""
    ns = np.int64(1_704_205_800_000_000_001)
    assert bar("t", ts=None, ts_ns=ns).ts == START


def test_figures_of_a_date_are_of_its_first_moment():
    """For fundamentals a date is a time; a naive datetime is not."""
    midnight = datetime(2024, 3, 31, tzinfo=UTC)
    assert fundamentals("t", asof=date(2024, 3, 31)).asof == midnight
    assert fundamentals("t", asof="2024-03-31").asof == midnight
    with pytest.raises(pydantic.ValidationError, match="time zone"):
        fundamentals("t", asof=datetime(2024, 3, 31))  # noqa: DTZ001  what is refused


@given(NEWS, NEWS)
def test_news_has_the_id_of_its_content(one, other):
    """Without an id, the same content has the same id and other content another; whose it is does not count."""
    content = [(n.vendor, n.symbol, n.ts_ns, n.title, n.url) for n in (one, other)]
    assert (one.id == other.id) == (content[0] == content[1])
    again = one.model_dump(exclude={"id", "tenant_id", "sentiment_score"})
    assert News(tenant_id="another", **again).id == one.id


def test_news_keeps_the_id_it_has():
    """An id that is given is the vendor's, with its case."""
    assert news("t", id="Xy-1").id == "Xy-1"


def test_models_of_two_types_are_no_table():
    """Rows are of one table; the first model that differs is named."""
    with pytest.raises(SchemaValidationError) as raised:
        rows_from_models([bar("t"), bar("t"), news("t")])
    assert raised.value.details == {"row": 2}


def test_a_latest_price_is_no_row_of_a_table():
    """It is what is made of other rows, and cannot be stored."""
    made = LatestPrice(tenant_id="t", vendor="v", symbol="aapl", price=1.0, price_timestamp=START)
    with pytest.raises(core.ConfigurationError, match="LatestPrice"):
        rows_from_models([made])
