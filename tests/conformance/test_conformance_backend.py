"""What every backend does with versions, streams, prices, coverage and jobs, whichever store keeps them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest
from conformance_rows import JAN_1_NS, make_rows

from market_data_core.errors import ConfigurationError, SchemaValidationError, ValidationError
from market_data_core.schemas import KEYS, STORED_SCHEMAS
from market_data_store.backend import Upserted, Wanted

DAY_NS = 86_400 * 10**9
NOW_NS = JAN_1_NS + 10 * DAY_NS
LAST_NS = 2**63 - 1
VALUE = {
    "bars": "close",
    "fundamentals": "eps",
    "news": "sentiment_score",
    "option_snapshots": "implied_vol",
    "corporate_actions": "split_factor",
}
KEYED = sorted(KEYS)
EVENTS = sorted(set(STORED_SCHEMAS) - set(KEYS))


def told(table, *values, **same):
    """One key's rows, a value each."""
    return make_rows(table, [{VALUE[table]: value} | same for value in values])


def values(store, table, **wanted):
    return store.fetch(table, Wanted(**wanted)).column(VALUE[table]).to_pylist()


def versions(store, table):
    rows = store.fetch(table, Wanted(versions=True)).to_pylist()
    return [(r["revision"], r["ts_known"], r[VALUE[table]]) for r in rows]


def append(store, table, rows):
    batch = make_rows(table, rows)
    view = store.table(table)
    position = (view.position("w") or 0) + len(rows)
    view.append(batch, writer="w", position=position, covers={})


def streamed(store, table, wanted=None, **options):
    return list(store.stream(table, wanted or Wanted(), **options))


def refused(call, *args, **options):
    with pytest.raises(SchemaValidationError) as caught:
        call(*args, **options)
    return caught.value.details


@pytest.mark.parametrize("table", sorted(STORED_SCHEMAS))
def test_a_table_that_nothing_was_written_to_has_no_rows(store, table):
    """However it is asked, in the declared columns."""
    assert store.fetch(table, Wanted()).equals(STORED_SCHEMAS[table].empty_table())
    assert streamed(store, table) == []
    assert store.coverage(table, Wanted()).num_rows == 0


@pytest.mark.parametrize("table", KEYED)
def test_the_first_version_is_revision_0_known_now(store, table):
    """A new key is inserted, received and known at the time of the call where it does not say."""
    assert store.upsert(table, told(table, 1.5, ts_recv=None, seq=None), now_ns=NOW_NS) == Upserted(inserted=1)
    row = store.fetch(table, Wanted()).to_pylist()[0]
    assert (row["revision"], row["ts_known"], row["ts_recv"], row["seq"]) == (0, NOW_NS, NOW_NS, 0)


@pytest.mark.parametrize("table", KEYED)
def test_other_values_become_the_next_version(store, table):
    """The newest is read, every one is kept."""
    for step, value in enumerate((1.5, 2.5, 1.5)):
        store.upsert(table, told(table, value), now_ns=NOW_NS + step)
    assert values(store, table) == [1.5]
    assert versions(store, table) == [(0, NOW_NS, 1.5), (1, NOW_NS + 1, 2.5), (2, NOW_NS + 2, 1.5)]


@pytest.mark.parametrize("table", KEYED)
def test_how_a_row_came_is_no_news(store, table):
    """Flags, origin, times of receipt and knowledge, place and reason alone make no version."""
    store.upsert(table, told(table, 1.5), now_ns=NOW_NS)
    again = told(table, 1.5, flags=4, origin="replay", ts_recv=7, seq=9, ts_known=NOW_NS + 9, reason="again")
    assert store.upsert(table, again, now_ns=NOW_NS + 1) == Upserted(unchanged=1)
    assert versions(store, table) == [(0, NOW_NS, 1.5)]


def test_null_equals_null_and_nothing_else(store):
    """A value that is absent twice is no news; one that goes or comes is."""
    assert store.upsert("fundamentals", told("fundamentals", None, None), now_ns=1) == Upserted(inserted=1, unchanged=1)
    assert store.upsert("fundamentals", told("fundamentals", 0.0), now_ns=2) == Upserted(revised=1)
    assert store.upsert("fundamentals", told("fundamentals", None), now_ns=3) == Upserted(revised=1)


def test_negative_zero_is_zero(store):
    """In a value and in a key."""
    assert store.upsert("option_snapshots", told("option_snapshots", 0.0, strike=0.0), now_ns=1).inserted == 1
    done = store.upsert("option_snapshots", told("option_snapshots", -0.0, strike=-0.0), now_ns=2)
    assert done == Upserted(unchanged=1)


@pytest.mark.parametrize("table", KEYED)
def test_rows_of_one_key_come_one_after_the_other(store, table):
    """In one call as in several."""
    done = store.upsert(table, told(table, 1.0, 1.0, 2.0, 1.0, 1.0), now_ns=NOW_NS)
    assert done == Upserted(inserted=1, revised=2, unchanged=2)
    assert [(r, v) for r, _, v in versions(store, table)] == [(0, 1.0), (1, 2.0), (2, 1.0)]


@pytest.mark.parametrize("table", KEYED)
def test_what_was_known_then(store, table):
    """Before anything was known there is nothing; at a version's very time it is known."""
    for known_ns, value in ((100, 1.0), (200, 2.0)):
        store.upsert(table, told(table, value, ts_known=known_ns), now_ns=NOW_NS)
    assert [values(store, table, as_of_ns=t) for t in (99, 100, 199, 200)] == [[], [1.0], [1.0], [2.0]]
    assert values(store, table, as_of_ns=199, versions=True) == [1.0]


@pytest.mark.parametrize("table", KEYED)
def test_a_history_is_restored_once_in_any_order(home, table):
    """Versions get their numbers and times back, from the newest to the oldest as well."""
    source, copy = home.store("source"), home.store("copy")
    source.upsert(table, told(table, 1.0, 2.0, 3.0), now_ns=NOW_NS)
    history = source.fetch(table, Wanted(versions=True))
    backwards = history.take(pa.array([2, 1, 0]))
    assert copy.upsert(table, backwards.slice(0, 1), now_ns=1) == Upserted(inserted=1)
    assert copy.upsert(table, backwards, now_ns=2) == Upserted(revised=2, unchanged=1)
    assert copy.fetch(table, Wanted(versions=True)).equals(history)
    assert values(copy, table) == [3.0]


def test_a_restored_version_that_is_equal_is_a_version_all_the_same(store):
    """It is part of a history; that it says nothing new is part of it too."""
    for revision in (0, 1):
        store.upsert("news", told("news", 1.0, revision=revision, ts_known=revision), now_ns=NOW_NS)
    assert versions(store, "news") == [(0, 0, 1.0), (1, 1, 1.0)]


def test_told_and_restored_rows_of_a_key_may_come_together(store):
    """What is told after a restored version is the one after it."""
    rows = [{"sentiment_score": 1.0}, {"sentiment_score": 1.0, "revision": 7}, {"sentiment_score": 2.0}]
    assert store.upsert("news", make_rows("news", rows), now_ns=NOW_NS) == Upserted(inserted=1, revised=2)
    assert [r for r, _, _ in versions(store, "news")] == [0, 7, 8]


@pytest.mark.parametrize("table", KEYED)
def test_no_rows_are_nothing(store, table):
    """An empty upsert is allowed."""
    assert store.upsert(table, STORED_SCHEMAS[table].empty_table(), now_ns=NOW_NS) == Upserted()


@pytest.mark.parametrize(("table", "column"), [(t, c) for t in KEYED for c in dict.fromkeys((*KEYS[t], "ts_event"))])
def test_a_key_with_a_hole_is_refused(store, table, column):
    """Naming row and column, and nothing of the call is stored."""
    batch = make_rows(table, [{VALUE[table]: 1.0}, {column: None}])
    assert refused(store.upsert, table, batch, now_ns=NOW_NS) == {"row": 1, "column": column}
    assert store.fetch(table, Wanted()).num_rows == 0


@pytest.mark.parametrize("table", KEYED)
def test_nan_is_refused(store, table):
    """Absent is null; naming row and column, and nothing of the call is stored."""
    assert refused(store.upsert, table, told(table, 1.0, float("nan")), now_ns=1) == {"row": 1, "column": VALUE[table]}
    assert store.fetch(table, Wanted()).num_rows == 0


def test_nan_is_refused_of_events_too(store):
    """Whoever appends."""
    details = refused(append, store, "trades", [{"price": 1.0}, {"price": float("nan")}])
    assert details == {"row": 1, "column": "price"}


def test_an_infinite_value_is_kept(store):
    """It is a number that compares."""
    store.upsert("fundamentals", told("fundamentals", float("inf")), now_ns=1)
    assert values(store, "fundamentals") == [float("inf")]


@pytest.mark.parametrize("table", KEYED)
def test_other_columns_are_refused(store, table):
    """Those of another table are not taken."""
    refused(store.upsert, table, make_rows("trades", [{}]), now_ns=NOW_NS)


@pytest.mark.parametrize("table", [*EVENTS, "nonsense", ""])
def test_what_has_no_key_has_no_versions(store, table):
    """Neither do tables that there are not."""
    rows = make_rows(table, [{}]) if table in EVENTS else make_rows("trades", [{}])
    with pytest.raises(ConfigurationError):
        store.upsert(table, rows, now_ns=NOW_NS)


@pytest.mark.parametrize("ask", ["fetch", "stream", "coverage"])
def test_what_is_not_declared_cannot_be_asked_for(store, ask):
    """Neither a table, nor a column to compare, nor a column that is no text; a stream says so at once."""
    for table, wanted in [
        ("nonsense", Wanted()),
        ("trades", Wanted(equal={"nonsense": "x"})),
        ("trades", Wanted(equal={"price": "1"})),
    ]:
        with pytest.raises(ConfigurationError):
            getattr(store, ask)(table, wanted)
    if ask != "coverage":
        with pytest.raises(ConfigurationError):
            getattr(store, ask)("trades", Wanted(), columns=["nonsense"])


def test_batches_have_rows(store):
    """A stream in batches of none is refused at once."""
    with pytest.raises(ConfigurationError):
        store.stream("trades", Wanted(), batch_rows=0)


def test_news_that_is_dated_anew_is_there_once(store):
    """Its version on another date takes the place of the older one, also where only one of the dates is asked for."""
    old, new = JAN_1_NS, JAN_1_NS + 3 * DAY_NS
    store.upsert("news", told("news", 1.0, ts_event=old), now_ns=100)
    store.upsert("news", told("news", 1.0, ts_event=new), now_ns=200)
    assert store.fetch("news", Wanted()).column("ts_event").to_pylist() == [new]
    for wanted, there in [
        (Wanted(end_ns=old + DAY_NS), []),
        (Wanted(start_ns=new), [new]),
        (Wanted(end_ns=old + DAY_NS, as_of_ns=150), [old]),
        (Wanted(start_ns=new, as_of_ns=150), []),
        (Wanted(end_ns=old + DAY_NS, versions=True), [old]),
    ]:
        assert store.fetch("news", wanted).column("ts_event").to_pylist() == there
        assert [t for b in streamed(store, "news", wanted) for t in b.column("ts_event").to_pylist()] == there


def test_news_that_is_of_another_symbol_now_does_not_answer_for_the_old_one(store):
    """The version that counts has to be of the symbol."""
    store.upsert("news", told("news", 1.0, symbol="A"), now_ns=100)
    store.upsert("news", told("news", 1.0, symbol="B"), now_ns=200)
    for symbol, there in (("A", 0), ("B", 1)):
        wanted = Wanted(symbols=(symbol,))
        assert store.fetch("news", wanted).num_rows == there
        assert sum(b.num_rows for b in streamed(store, "news", wanted)) == there


def test_bars_are_chosen_by_every_part_of_the_question(store):
    """Vendor, symbols, time and further columns, one by one and together."""
    rows = [
        {"vendor": v, "symbol": s, "interval": i, "ts_event": JAN_1_NS + d * DAY_NS, "close": 1.0}
        for v in "vw"
        for s in "ABC"
        for i in ("1m", "1h")
        for d in (0, 1)
    ]
    store.upsert("bars", make_rows("bars", rows), now_ns=NOW_NS)
    for wanted, count in [
        (Wanted(), 24),
        (Wanted(vendor="v"), 12),
        (Wanted(symbols=("A", "C")), 16),
        (Wanted(symbols=("Z",)), 0),
        (Wanted(equal={"interval": "1h"}), 12),
        (Wanted(start_ns=JAN_1_NS + DAY_NS), 12),
        (Wanted(end_ns=JAN_1_NS + DAY_NS), 12),
        (Wanted(start_ns=JAN_1_NS + DAY_NS, end_ns=JAN_1_NS + DAY_NS), 0),
        (Wanted(vendor="w", symbols=("B",), equal={"interval": "1m"}, end_ns=JAN_1_NS + 1), 1),
    ]:
        assert store.fetch("bars", wanted).num_rows == count
        assert sum(b.num_rows for b in streamed(store, "bars", wanted)) == count
        assert sum(store.coverage("bars", wanted).column("rows").to_pylist()) == count


@pytest.mark.parametrize("table", ["bars", "news", "trades"])
def test_times_at_the_ends_of_time_are_found(store, table):
    """Without bounds every time is, and with one exactly those within."""
    times = [-(2**63), -1, 0, LAST_NS]
    rows = [{"ts_event": t, "seq": at} | ({"id": str(at)} if table == "news" else {}) for at, t in enumerate(times)]
    if table == "trades":
        append(store, table, rows)
    else:
        store.upsert(table, make_rows(table, rows), now_ns=NOW_NS)
    for wanted, there in [(Wanted(), times), (Wanted(start_ns=0), times[2:]), (Wanted(end_ns=0), times[:2])]:
        assert store.fetch(table, wanted).column("ts_event").to_pylist() == there
        assert [t for b in streamed(store, table, wanted) for t in b.column("ts_event").to_pylist()] == there
        assert store.coverage(table, wanted).column("first_ts").to_pylist() == there


def test_a_key_at_the_end_of_time_is_revised_like_any_other(store):
    """The newest version is found there."""
    for value in (1.0, 2.0):
        store.upsert("bars", told("bars", value, ts_event=LAST_NS), now_ns=NOW_NS)
    assert [(r, v) for r, _, v in versions(store, "bars")] == [(0, 1.0), (1, 2.0)]


def test_a_fetch_ascends(store):
    """Events by time and place, versions by time, key and age, whatever was stored first."""
    append(store, "trades", [{"ts_event": 5, "seq": 1}, {"ts_event": 5, "seq": 0}, {"ts_event": 4, "seq": 2}])
    trades = store.fetch("trades", Wanted(), columns=["ts_event", "seq"]).to_pylist()
    assert [(r["ts_event"], r["seq"]) for r in trades] == [(4, 2), (5, 0), (5, 1)]
    for symbol, value, ts_ns in (("B", 1.0, 5), ("a", 1.0, 5), ("B", 2.0, 5), ("é", 1.0, 4)):
        store.upsert("bars", told("bars", value, symbol=symbol, ts_event=ts_ns), now_ns=NOW_NS)
    bars = store.fetch("bars", Wanted(versions=True), columns=["symbol", "close"]).to_pylist()
    assert [(r["symbol"], r["close"]) for r in bars] == [("é", 1.0), ("B", 1.0), ("B", 2.0), ("a", 1.0)]


def test_a_stream_goes_by_date_and_then_by_key(store):
    """Within a date the key decides, not the time."""
    day, rows = DAY_NS, []
    rows = [{"symbol": s, "ts_event": JAN_1_NS + t} for s, t in (("A", day), ("B", 1), ("A", 2), ("B", day + 1))]
    store.upsert("bars", make_rows("bars", rows), now_ns=NOW_NS)
    found = [
        (s.as_py(), t.as_py() - JAN_1_NS)
        for b in streamed(store, "bars")
        for s, t in zip(b["symbol"], b["ts_event"], strict=True)
    ]
    assert found == [("A", 2), ("B", 1), ("A", day), ("B", day + 1)]


@pytest.mark.parametrize("table", ["trades", "quarantine", "bars", "news"])
def test_a_stream_comes_in_small_batches_and_whole(store, table):
    """None is larger than asked for, dates ascend, and together they are the fetched rows."""
    rows = [{"ts_event": JAN_1_NS + (at % 3) * DAY_NS + at, "ts_recv": JAN_1_NS, "seq": at} for at in range(50)]
    rows = [r | ({"id": str(r["seq"])} if table == "news" else {}) for r in rows]
    if table in KEYS:
        store.upsert(table, make_rows(table, rows), now_ns=NOW_NS)
    else:
        append(store, table, rows)
    batches = streamed(store, table, columns=["seq", "ts_event"], batch_rows=7)
    assert all(0 < b.num_rows <= 7 for b in batches)
    assert batches[0].schema.names == ["seq", "ts_event"]
    dates = [t // DAY_NS for b in batches for t in b.column("ts_event").to_pylist()]
    assert dates == sorted(dates)
    assert sorted(s for b in batches for s in b.column("seq").to_pylist()) == list(range(50))


def test_a_stream_that_is_given_up_leaves_nothing_open(store):
    """As often as one likes."""
    append(store, "trades", [{"ts_event": JAN_1_NS + at} for at in range(100)])
    for _ in range(30):
        stream = store.stream("trades", Wanted(), batch_rows=1)
        next(stream)
        stream.close()
    assert store.fetch("trades", Wanted()).num_rows == 100


def test_the_last_trade_is_the_price(store):
    """By time and then by place; one without a price says nothing."""
    rows = [(5, 10.0), (6, 12.0), (6, 11.0), (7, None)]
    append(store, "trades", [{"ts_event": t, "price": p} for t, p in rows])
    append(store, "quotes", [{"ts_event": 99, "bid_price": 1.0, "ask_price": 2.0}])
    assert store.latest_prices().to_pylist() == [{"vendor": "v", "symbol": "A", "price": 11.0, "price_timestamp": 6}]


def test_without_trades_the_last_two_sided_quote_is_the_price(store):
    """The middle of it."""
    quotes = [{"bid_price": 1.0, "ask_price": 2.0}, {"bid_price": 3.0}, {"ask_price": 5.0}]
    append(store, "quotes", [q | {"ts_event": t} for t, q in enumerate(quotes)])
    store.upsert("bars", told("bars", 9.0), now_ns=NOW_NS)
    assert store.latest_prices(["A"]).column("price").to_pylist() == [1.5]


def test_without_either_the_last_close_is_the_price(store):
    """Of the newest version, which may have none."""
    store.upsert("bars", told("bars", 9.0, ts_event=JAN_1_NS), now_ns=1)
    store.upsert("bars", told("bars", 8.0, ts_event=JAN_1_NS), now_ns=2)
    store.upsert("bars", told("bars", 7.0, None, ts_event=JAN_1_NS + DAY_NS), now_ns=3)
    assert store.latest_prices(["A"], vendor="v").column("price").to_pylist() == [8.0]


def test_prices_of_some_are_found_wherever_they_lie(store):
    """Dates apart, of several vendors, asked for twice, and what has none is not there."""
    for day, vendor, symbol, price in [(0, "v", "A", 1.0), (5, "w", "A", 2.0), (9, "v", "B", 3.0), (3, "v", "B", 4.0)]:
        append(
            store, "trades", [{"ts_event": JAN_1_NS + day * DAY_NS, "vendor": vendor, "symbol": symbol, "price": price}]
        )

    def prices(symbols=(), vendor=None):
        return [(r["vendor"], r["symbol"], r["price"]) for r in store.latest_prices(symbols, vendor=vendor).to_pylist()]

    everything = [("v", "A", 1.0), ("v", "B", 3.0), ("w", "A", 2.0)]
    assert prices() == everything
    assert prices(["B", "A", "Z", "A"]) == everything
    assert prices(["A"]) == [("v", "A", 1.0), ("w", "A", 2.0)]
    assert prices(["A", "B"], "v") == everything[:2]
    assert prices(["Z"]) == prices(["A"], "z") == []


def test_coverage_counts_by_vendor_symbol_and_date(store):
    """With the first and last time; dates are those of the event time also before 1970."""
    times = [("A", -1), ("A", 0), ("A", DAY_NS - 1), ("A", DAY_NS), ("B", 5)]
    append(store, "trades", [{"symbol": s, "ts_event": t} for s, t in times])
    found = [tuple(r.values()) for r in store.coverage("trades", Wanted()).to_pylist()]
    assert found == [
        ("v", "A", "1969-12-31", 1, -1, -1),
        ("v", "A", "1970-01-01", 2, 0, DAY_NS - 1),
        ("v", "A", "1970-01-02", 1, DAY_NS, DAY_NS),
        ("v", "B", "1970-01-01", 1, 5, 5),
    ]


@pytest.mark.parametrize("table", KEYED)
def test_coverage_counts_every_version(store, table):
    """What was known then counts alone where that is asked."""
    store.upsert(table, told(table, 1.0, ts_known=100), now_ns=1)
    store.upsert(table, told(table, 2.0, ts_known=200), now_ns=2)
    counts = [store.coverage(table, Wanted(as_of_ns=t)).column("rows").to_pylist() for t in (None, 150, 50)]
    assert counts == [[2], [1], []]


def test_coverage_of_what_has_no_event_time_of_its_own(store):
    """Quarantined rows are counted by the event time they claim, whenever they were received."""
    append(store, "quarantine", [{"ts_event": t, "ts_recv": JAN_1_NS} for t in (0, 1, 5 * DAY_NS)])
    found = store.coverage("quarantine", Wanted(end_ns=2 * DAY_NS))
    assert [(r["date"], r["rows"]) for r in found.to_pylist()] == [("1970-01-01", 2)]


@pytest.mark.parametrize("table", ["bars", "news"])
def test_upserts_at_once_lose_no_version(home, table):
    """Through two stores and several threads each: every value is a version, numbered without a gap."""
    stores = [home.store(), home.store()]

    def write(number):
        rows = [{VALUE[table]: float(number * 100 + step), "symbol": "A"} for step in range(3)]
        done = Upserted()
        for row in rows:
            done += stores[number % 2].upsert(table, make_rows(table, [row]), now_ns=NOW_NS)
        return done

    with ThreadPoolExecutor(6) as threads:
        done = sum(threads.map(write, range(6)), Upserted())
    assert done == Upserted(inserted=1, revised=17)
    found = versions(stores[0], table)
    assert [r for r, _, _ in found] == list(range(18))
    assert {v for _, _, v in found} == {float(n * 100 + s) for n in range(6) for s in range(3)}


def test_tenants_see_nothing_of_each_other(home):
    """Neither rows, nor prices, nor coverage, nor jobs; the same idempotency key is another job."""
    ours, theirs = home.store("ours"), home.store("theirs")
    ours.upsert("news", told("news", 1.0), now_ns=NOW_NS)
    append(ours, "trades", [{"price": 1.0}])
    ours.enqueue("backfill", {}, idempotency_key="k", now_ns=1)
    assert theirs.fetch("news", Wanted()).num_rows == 0
    assert streamed(theirs, "news") == []
    assert theirs.latest_prices().num_rows == theirs.coverage("trades", Wanted()).num_rows == 0
    assert theirs.jobs() == []
    assert theirs.claim("w", now_ns=2) is None
    assert theirs.enqueue("other", {"a": 1}, idempotency_key="k", now_ns=1).state == "queued"
    assert theirs.upsert("news", told("news", 2.0), now_ns=NOW_NS) == Upserted(inserted=1)


def test_texts_are_only_texts(store):
    """Quotes, wildcards and statements in every place that takes a text find nothing and harm nothing."""
    odd = "'; DROP TABLE mds.news; -- %s {0} \\ \" ../.."
    store.upsert("news", told("news", 1.0, symbol=odd, id=odd, vendor=odd, title=odd), now_ns=NOW_NS)
    assert store.fetch("news", Wanted(symbols=(odd,), vendor=odd, equal={"id": odd})).column("title").to_pylist() == [
        odd
    ]
    assert store.fetch("news", Wanted(symbols=("%",))).num_rows == 0
    assert store.latest_prices([odd], vendor=odd).num_rows == 0
    job = store.enqueue(odd, {odd: odd}, idempotency_key=odd, now_ns=1)
    assert store.claim(odd, job_types=[odd], now_ns=2).id == job.id
    assert store.finish(job.id, owner=odd, error=odd, now_ns=3).error == odd


def test_a_job_is_asked_for_once(store):
    """With the same key the job of then is given back, whatever became of it."""
    first = store.enqueue("backfill", {"b": [1, None], "a": "ü"}, idempotency_key="k", priority=3, now_ns=5)
    assert (first.state, first.attempts, first.priority, first.created_ns, first.owner) == ("queued", 0, 3, 5, None)
    assert store.enqueue("backfill", {"a": "ü", "b": [1, None]}, idempotency_key="k", now_ns=9) == first
    store.claim("w", now_ns=10)
    done = store.finish(first.id, owner="w", now_ns=11)
    assert store.enqueue("backfill", first.payload, idempotency_key="k", now_ns=12) == done
    assert store.jobs() == [done]


@pytest.mark.parametrize(("job_type", "payload"), [("other", {"a": 1}), ("backfill", {"a": 2}), ("backfill", {})])
def test_a_key_is_not_used_for_two_jobs(store, job_type, payload):
    """Of another type or payload."""
    store.enqueue("backfill", {"a": 1}, idempotency_key="k", now_ns=1)
    with pytest.raises(ValidationError, match="'k'"):
        store.enqueue(job_type, payload, idempotency_key="k", now_ns=2)
    assert len(store.jobs()) == 1


@pytest.mark.parametrize("payload", [{"a": float("nan")}, {"a": object()}, {"a": b"x"}])
def test_a_payload_is_json(store, payload):
    """Nothing else is taken."""
    with pytest.raises(ValidationError):
        store.enqueue("backfill", payload, idempotency_key="k", now_ns=1)
    assert store.jobs() == []


@pytest.mark.parametrize("text", ["\ud800", "a\ud800b"])
def test_a_text_that_is_none_is_refused(store, text):
    """Half a surrogate pair, as JSON may bring it."""
    with pytest.raises(ValidationError):
        store.enqueue(text, {}, idempotency_key="k", now_ns=1)
    with pytest.raises(ValidationError):
        store.enqueue("backfill", {}, idempotency_key=text, now_ns=1)


def test_jobs_are_claimed_by_priority_and_age(store):
    """Higher first, then older; only the types one can do."""
    for at, (job_type, priority) in enumerate([("a", 0), ("b", 0), ("a", 5), ("a", 5)]):
        store.enqueue(job_type, {}, idempotency_key=str(at), priority=priority, now_ns=at)
    keys = [store.claim("w", job_types=types, now_ns=10).idempotency_key for types in (["b"], [], ["a", "b"], [])]
    assert keys == ["1", "2", "3", "0"]
    assert store.claim("w", now_ns=10) is None


def test_a_job_whose_lease_is_over_is_anothers(store):
    """Not a moment before, and then its first owner has it no more."""
    job = store.enqueue("a", {}, idempotency_key="k", now_ns=0)
    first = store.claim("one", lease_s=1.0, now_ns=100)
    assert (first.lease_ns, first.attempts, first.state, first.owner) == (100 + 10**9, 1, "running", "one")
    assert store.claim("two", now_ns=100 + 10**9 - 1) is None
    second = store.claim("two", now_ns=100 + 10**9)
    assert (second.id, second.attempts, second.owner) == (job.id, 2, "two")
    with pytest.raises(ValidationError):
        store.finish(job.id, owner="one", now_ns=2 * 10**9)
    done = store.finish(job.id, owner="two", error="no such symbol", now_ns=2 * 10**9)
    assert (done.state, done.error, done.lease_ns, done.owner) == ("failed", "no such symbol", None, "two")


@pytest.mark.parametrize("case", ["unknown", "queued", "done"])
def test_what_nobody_has_cannot_be_finished(store, case):
    """A job that is not, that nobody claimed, or that is done."""
    job = store.enqueue("a", {}, idempotency_key="k", now_ns=0)
    if case == "done":
        store.claim("w", now_ns=1)
        store.finish(job.id, owner="w", now_ns=2)
    with pytest.raises(ValidationError):
        store.finish(job.id + (case == "unknown"), owner="w", now_ns=3)


def test_jobs_are_listed_newest_first(store):
    """All, or those of one state, and no more than asked for."""
    for at in range(5):
        store.enqueue("a", {}, idempotency_key=str(at), now_ns=at)
    store.claim("w", now_ns=9)
    assert [j.idempotency_key for j in store.jobs()] == list("43210")
    assert [j.idempotency_key for j in store.jobs(state="queued", limit=2)] == list("43")
    assert [j.idempotency_key for j in store.jobs(state="running")] == ["0"]
    assert store.jobs(limit=0) == store.jobs(state="failed") == []


def test_no_job_is_claimed_twice(home):
    """By many at once through two stores."""
    stores = [home.store(), home.store()]
    for at in range(40):
        stores[0].enqueue("a", {}, idempotency_key=str(at), now_ns=at)

    def work(number):
        mine = []
        while job := stores[number % 2].claim(f"w{number}", now_ns=99):
            mine.append(job.id)
            stores[number % 2].finish(job.id, owner=f"w{number}", now_ns=100)
        return mine

    with ThreadPoolExecutor(6) as threads:
        claimed = [i for mine in threads.map(work, range(6)) for i in mine]
    assert len(claimed) == len(set(claimed)) == 40
    assert len(stores[1].jobs(state="done")) == 40


def test_the_same_job_asked_for_at_once_is_one(home):
    """All who ask get it."""
    stores = [home.store(), home.store()]
    with ThreadPoolExecutor(6) as threads:
        asked = list(threads.map(lambda n: stores[n % 2].enqueue("a", {}, idempotency_key="k", now_ns=1), range(12)))
    assert len({j.id for j in asked}) == len(stores[0].jobs()) == 1


def test_health_says_what_it_is(store):
    """Which store, its version, the schema's, and how long a round trip takes."""
    health = store.health()
    assert health["backend"] in {"lake", "postgresql"}
    assert health["version"]
    assert health["schema_version"] == store.schema_version() > 0
    assert health["latency_ms"] > 0


def test_a_store_is_closed_twice(home):
    """Without a word."""
    store = home.store()
    store.close()
    store.close()


def test_what_is_stored_is_there_after_a_restart(home):
    """Rows, versions and jobs."""
    home.store().upsert("news", told("news", 1.0, 2.0), now_ns=NOW_NS)
    job = home.store().enqueue("a", {"x": 1}, idempotency_key="k", now_ns=1)
    again = home.store()
    assert values(again, "news") == [2.0]
    assert again.jobs() == [job]
