"""The client over both stores."""

from __future__ import annotations

import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from mds_values import START, bar, fundamentals, news, option

from market_data_core.clock import ManualClock
from market_data_core.schemas import STORED_SCHEMAS
from mds_client import (
    MDS,
    ClientClosed,
    ConfigurationError,
    MDSConfig,
    SchemaValidationError,
    TemporaryUnavailable,
    Upserted,
    ValidationError,
)
from mds_client.models import Bar, Fundamentals, News, OptionSnap
from mds_client.rows import models_from_rows
from mds_client.transfer import Format

START_NS = 1_704_205_800_000_000_000
MINUTE_NS = 60_000_000_000


def store_events(client, table, rows):
    """Append events, which only the platform does, as its pipeline would."""
    with client._store() as backend:
        full = [
            {"vendor": "acme", "symbol": "AAPL", "seq": n, "flags": 0, "origin": "replay", **row}
            for n, row in enumerate(rows)
        ]
        backend.table(table).append(
            pa.Table.from_pylist(full, schema=STORED_SCHEMAS[table]), writer="test", position=len(rows), covers={}
        )


# -- writing


def test_what_is_stored_is_read_again(client):
    """A bar comes back as it was given, to the nanosecond."""
    made = bar(client.tenant_id, ts="2024-01-02T14:30:00.000000001Z", vwap=10.25, trade_count=7)
    assert client.upsert_bars([made]) == Upserted(inserted=1)
    assert client.bars_window("aapl", "1m", START, START + timedelta(hours=1), "acme") == [made]


@pytest.mark.parametrize("kind", [Bar, Fundamentals, News, OptionSnap])
def test_every_type_is_stored_once(client, kind):
    """Storing again changes nothing; other values of the same key are a revision."""
    upsert, make, table, change = {
        Bar: (client.upsert_bars, bar, "bars", {"close_price": 10.5}),
        Fundamentals: (client.upsert_fundamentals, fundamentals, "fundamentals", {"eps": 2.0}),
        News: (client.upsert_news, news, "news", {"sentiment_score": -0.5}),
        OptionSnap: (client.upsert_options, option, "option_snapshots", {"vega": 0.1}),
    }[kind]
    made = make(client.tenant_id)
    changed = made.model_copy(update=change)
    assert upsert([made]) == Upserted(inserted=1)
    assert upsert([made]) == Upserted(unchanged=1)
    assert upsert([changed]) == Upserted(revised=1)
    assert models_from_rows(kind, client.rows(table), tenant_id=client.tenant_id) == [changed]


def test_a_reason_is_kept_with_the_version(client):
    """And so is the time since when it is known."""
    client.upsert_bars([bar(client.tenant_id)], reason="first", ts_known="2024-01-03")
    client.upsert_bars([bar(client.tenant_id, close=10.5)], reason="corrected", ts_known="2024-01-05")
    newest = client.bars("AAPL", "1m").to_pylist()
    before = client.bars("AAPL", "1m", as_of="2024-01-04").to_pylist()
    assert [(b["close"], b["reason"]) for b in (*before, *newest)] == [(10.0, "first"), (10.5, "corrected")]
    assert client.bars("AAPL", "1m", as_of="2024-01-02").num_rows == 0


def test_a_row_is_known_when_it_is_stored(options):
    """Where nothing else is said, by the client's clock."""
    clock = ManualClock(start_ns=START_NS)
    with MDS(options, clock=clock) as client:
        client.upsert_bars([bar(client.tenant_id)])
        row = client.bars("AAPL", "1m").to_pylist()[0]
    assert (row["ts_known"], row["ts_recv"], row["revision"]) == (START_NS, START_NS, 0)


def test_nothing_is_stored_of_another_tenant(client):
    """A row says whose it is; the whole call is refused, and the row named."""
    with pytest.raises(ValidationError, match="tenant other's") as raised:
        client.upsert_bars([bar(client.tenant_id), bar("other", minute=1)])
    assert raised.value.details == {"row": 1, "column": "tenant_id"}
    assert client.bars("AAPL", "1m").num_rows == 0


def test_tenants_do_not_see_each_other(client, options):
    """The same key of two tenants is two rows."""
    with MDS({**options, "tenant_id": "neighbour"}) as other:
        other.upsert_bars([bar("neighbour", close=99.0)])
        client.upsert_bars([bar(client.tenant_id)])
        assert [b.close_price for b in client.bars_window("AAPL", "1m", None, None)] == [10.0]


def test_a_row_of_another_type_is_refused(client):
    """Bars are bars."""
    with pytest.raises(SchemaValidationError, match="News, no Bar"):
        client.upsert_bars([bar(client.tenant_id), news(client.tenant_id)])


def test_nothing_to_store_is_stored(client):
    """No rows are no error."""
    assert client.upsert_bars([]) == Upserted()


# -- reading


def test_a_window_includes_its_start_and_excludes_its_end(client):
    """By the bars' starts, ascending."""
    client.upsert_bars([bar(client.tenant_id, minute=m) for m in (3, 1, 2, 0)])
    found = client.bars_window("AAPL", "1m", START + timedelta(minutes=1), START + timedelta(minutes=3), "acme")
    assert [b.ts for b in found] == [START + timedelta(minutes=m) for m in (1, 2)]


def test_bars_of_both_sources_stand_beside_each_other(client):
    """They are never merged; each says which it is, and one can be asked for."""
    client.upsert_bars([bar(client.tenant_id, source=s) for s in ("internal", "external")])
    window = ("AAPL", "1m", None, None, "acme")
    assert {b.source for b in client.bars_window(*window)} == {"internal", "external"}
    assert [b.source for b in client.bars_window(*window, source="internal")] == ["internal"]


def test_prices_are_the_last_ones(client):
    """Of each vendor; an instrument without any has none."""
    client.upsert_bars([bar(client.tenant_id, minute=m, close=10.0 + m) for m in (0, 1)])
    client.upsert_bars([bar(client.tenant_id, vendor="other", symbol="IBM", close=3.0)])
    found = {(p.vendor, p.symbol): p.price for p in client.latest_prices()}
    assert found == {("acme", "AAPL"): 11.0, ("other", "IBM"): 3.0}
    assert [p.symbol for p in client.latest_prices("aapl")] == ["AAPL"]
    assert [p.symbol for p in client.latest_prices(["AAPL", "ibm", "none"], vendor="other")] == ["IBM"]
    assert all(p.tenant_id == client.tenant_id and p.price_timestamp.tzinfo is UTC for p in client.latest_prices())


def test_trades_and_quotes_are_read_by_time_and_receipt(client):
    """Of the span; with `as_of`, what had arrived by then."""
    store_events(
        client,
        "trades",
        [{"ts_event": START_NS + n, "ts_recv": START_NS + 10 * n, "price": 1.0 + n, "size": 1.0} for n in range(5)],
    )
    store_events(client, "quotes", [{"ts_event": START_NS, "ts_recv": START_NS, "bid_price": 1.0, "ask_price": 2.0}])
    found = client.trades("AAPL", start="2024-01-02T14:30:00.000000001Z", end="2024-01-02T14:30:00.000000004Z")
    assert found.column("price").to_pylist() == [2.0, 3.0, 4.0]
    known = client.trades("AAPL", as_of="2024-01-02T14:30:00.000000020Z", columns=["price"])
    assert known.to_pydict() == {"price": [1.0, 2.0, 3.0]}
    assert client.quotes("AAPL", columns=["bid_price", "ask_price"]).to_pylist() == [
        {"bid_price": 1.0, "ask_price": 2.0}
    ]


def test_a_session_takes_its_part_of_the_day(client):
    """Bars before the open are no regular hours, and bars of a day have no parts."""
    client.upsert_bars([bar(client.tenant_id, minute=m) for m in (-1, 0)])
    assert client.bars("AAPL", "1m", session="regular").column("ts_event").to_pylist() == [START_NS]
    assert client.bars("AAPL", "1m", session="extended").num_rows == 2
    assert client.bars("AAPL", "1m", session="regular", calendar="XLON").num_rows == 2
    with pytest.raises(ConfigurationError, match="1d"):
        client.bars("AAPL", "1d", session="regular")


def split_of_two(when, vendor="acme", known=None):
    row = {"vendor": vendor, "symbol": "AAPL", "ts_event": when, "action": "split", "split_factor": 0.5}
    return pa.Table.from_pylist([{**row, "ts_known": known}], schema=STORED_SCHEMAS["corporate_actions"])


def test_prices_are_adjusted_for_what_is_stored(client):
    """For actions behind the span too, as far as they were known."""
    client.upsert_bars([bar(client.tenant_id), bar(client.tenant_id, minute=2)])
    split_ns = START_NS + 2 * MINUTE_NS
    split = split_of_two(split_ns, known=split_ns)
    assert client.upsert_corporate_actions(split) == Upserted(inserted=1)
    assert client.upsert_corporate_actions(split) == Upserted(unchanged=1)

    def read(**options):
        found = client.bars("AAPL", "1m", adjust="split", columns=["close", "volume"], **options)
        return found.column("close").to_pylist(), found.column("volume").to_pylist()

    assert read() == ([5.0, 10.0], [200.0, 100.0])
    assert read(end=START + timedelta(minutes=1)) == ([5.0], [200.0])
    # At that time neither the split nor the bars were known.
    assert read(as_of=START) == ([], [])
    assert client.bars("AAPL", "1m").column("close").to_pylist() == [10.0, 10.0]


def test_actions_of_another_vendor_have_to_be_asked_for(client):
    """They are not taken unasked, and it is not kept quiet that there are some."""
    client.upsert_bars([bar(client.tenant_id)])
    client.upsert_corporate_actions(split_of_two(START_NS + MINUTE_NS, vendor="lean"))
    with pytest.raises(ValidationError, match="actions_vendor"):
        client.bars("AAPL", "1m", adjust="split")
    found = client.bars("AAPL", "1m", adjust="split", actions_vendor="lean")
    assert found.column("close").to_pylist() == [5.0]


def test_rows_can_be_had_as_frames(client):
    """Both pandas and Polars get times of their own."""
    client.upsert_bars([bar(client.tenant_id)])
    assert client.bars("AAPL", "1m", as_="pandas")["ts_event"][0] == pd.Timestamp(START)
    assert client.bars("AAPL", "1m", as_="polars").schema["ts_event"] == pl.Datetime("ns", "UTC")
    assert client.bars("AAPL", "1m").schema.field("ts_event").type == pa.int64()


def test_coverage_counts_rows_by_day(client):
    """Per vendor, symbol and date, with the first and last time."""
    client.upsert_bars([bar(client.tenant_id, minute=m) for m in (0, 5)])
    row = client.coverage("bars").to_pylist()[0]
    assert (row["symbol"], row["rows"], row["first_ts"], row["last_ts"]) == (
        "AAPL",
        2,
        START_NS,
        START_NS + 5 * MINUTE_NS,
    )


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda c: c.rows("prices"), ConfigurationError),
        (lambda c: c.rows("control"), ConfigurationError),
        (lambda c: c.coverage("prices"), ConfigurationError),
        (lambda c: c.dump("prices", "-"), ConfigurationError),
        (lambda c: c.bars("AAPL", "1m", columns=["price"]), ConfigurationError),
        (lambda c: c.bars("AAPL", "a minute"), ConfigurationError),
        (lambda c: c.bars("AAPL", "1m", session="rth"), ConfigurationError),
        (lambda c: c.bars("AAPL", "1m", adjust="back"), ConfigurationError),
        (lambda c: c.bars("AAPL", "1m", as_="csv"), ConfigurationError),
        (lambda c: c.bars("AAPL", "1m", start=datetime(2024, 1, 2)), ValidationError),  # noqa: DTZ001  what is refused
        (lambda c: c.bars("AAPL", "1m", start="2024-01-03", end="2024-01-02"), ValidationError),
        (lambda c: c.enqueue_job("t", {}, idempotency_key="k", priority="urgent"), ConfigurationError),
    ],
)
def test_what_cannot_be_answered_is_refused(client, call, error):
    """With an error of ours that names what is wrong, rather than with nothing."""
    with pytest.raises(error):
        call(client)


# -- files and jobs


def test_a_dump_can_be_restored(client, options, tmp_path):
    """Every version, into another tenant's tables, once however often."""
    client.upsert_bars([bar(client.tenant_id), bar(client.tenant_id, minute=1)])
    client.upsert_bars([bar(client.tenant_id, close=10.5)])
    file = tmp_path / "bars.csv"
    dumped = client.dump("bars", file, symbols="aapl", timeframe="1m", start=START, end=START + timedelta(minutes=1))
    assert dumped.rows == 2
    with MDS({**options, "tenant_id": f"{client.tenant_id}-copy"}) as other:
        for _ in range(2):
            assert other.restore("bars", file, format=Format.CSV).rows == 2
        found = other.bars_window("AAPL", "1m", None, None)
    assert [b.close_price for b in found] == [10.5]


def test_a_job_is_done_by_one(client):
    """Asked for twice it is one; whoever claims it first has it, the more urgent first."""
    client.enqueue_job("backfill", {"symbol": "IBM"}, idempotency_key="a")
    urgent = client.enqueue_job("backfill", {"symbol": "AAPL"}, idempotency_key="b", priority="high")
    assert client.enqueue_job("backfill", {"symbol": "AAPL"}, idempotency_key="b", priority="high").id == urgent.id
    claimed = client.claim_job("worker-1")
    assert claimed.id == urgent.id
    assert client.claim_job("worker-2").payload == {"symbol": "IBM"}
    assert client.claim_job("worker-3") is None
    assert client.finish_job(claimed.id, owner="worker-1").state == "done"
    with pytest.raises(ValidationError):
        client.finish_job(claimed.id, owner="worker-2")
    assert [j.state for j in client.jobs()] == ["done", "running"]
    assert [j.id for j in client.jobs(state="done")] == [claimed.id]


def test_jobs_are_claimed_in_the_name_of_the_application(options):
    """Unless another is given."""
    with MDS({**options, "app_name": "nightly"}) as client:
        made = client.enqueue_job("t", {}, idempotency_key="k")
        assert client.claim_job().owner == "nightly"
        assert client.finish_job(made.id, error="no data").error == "no data"


# -- options and life


def test_health_and_version_say_what_is_there(client):
    """A store that answers says which it is."""
    assert client.migrate() == client.schema_version() > 0
    found = client.health()
    assert {"backend", "version", "schema_version", "latency_ms"} <= set(found)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"tenant_id": "t", "dsn": "x", "pool_size": 3}, "no option 'pool_size'"),
        ({"tenant_id": "t"}, "'dsn'"),
        ({"dsn": "x"}, "'tenant_id'"),
        ({"tenant_id": "t", "dsn": "x", "pool_max": 0}, "'pool_max'"),
        ({"tenant_id": "t", "dsn": "x", "timeout_s": "soon"}, "'timeout_s'"),
        ({"tenant_id": "t", "dsn": "x", "statement_timeout_s": 0}, "'statement_timeout_s'"),
        ({"tenant_id": "t", "dsn": "x", "timeout_s": 1, "connect_timeout": 1}, "say the same"),
        ({"tenant_id": "../up", "dsn": "x"}, "tenant"),
        ({"tenant_id": "t", "dsn": "mysql://u:secret@h/db"}, "mysql"),
    ],
)
def test_a_wrong_option_is_named(options, why):
    """And a dsn, which may have a password in it, is in no message."""
    with pytest.raises(ConfigurationError, match=why) as raised:
        MDS(options)
    assert "secret" not in f"{raised.value}{raised.value.__cause__}"


def test_a_folder_may_be_a_path(tmp_path):
    """As anywhere in Python."""
    with MDS({"dsn": tmp_path / "lake", "tenant_id": "t"}) as client:
        assert client.config.dsn == str(tmp_path / "lake")


def test_a_configuration_hides_its_dsn():
    """It may be logged."""
    config = MDSConfig(dsn="postgresql://u:secret@h/db", tenant_id="t")
    assert "secret" not in f"{config!r}{config}"


def test_options_under_their_other_names_are_understood():
    """Seconds to connect, and milliseconds for a statement."""
    with MDS({"dsn": "x", "tenant_id": "t", "connect_timeout": 3, "statement_timeout_ms": 1500}) as client:
        assert (client.config.timeout_s, client.config.statement_timeout_s) == (3.0, 1.5)


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        ("postgresql://h/db", "postgresql://h/db?application_name=my%20app"),
        ("postgresql://h/db?sslmode=require", "postgresql://h/db?sslmode=require&application_name=my%20app"),
        ("postgresql://h/db?application_name=other", "postgresql://h/db?application_name=other"),
        ("some/folder", "some/folder"),
    ],
)
def test_a_server_is_told_the_application(dsn, shown):
    """Unless the dsn says it."""
    assert MDSConfig(dsn=dsn, tenant_id="t", app_name="my app").address() == shown


def test_a_server_that_is_away_is_said_in_time(tmp_path):
    """After the timeout, as an error that may pass."""
    dsn = f"postgresql://postgres@/db?host={tmp_path}"
    with MDS({"dsn": dsn, "tenant_id": "t", "timeout_s": 0.2}) as client, pytest.raises(TemporaryUnavailable) as raised:
        client.latest_prices()
    assert raised.value.retryable


def test_a_closed_client_says_so(client):
    """Whatever is asked of it; closing twice is no error."""
    client.close()
    client.close()
    with pytest.raises(ClientClosed):
        client.health()
    with pytest.raises(ClientClosed):
        client.upsert_bars([bar(client.tenant_id)])


def test_threads_share_a_client(client):
    """More of them than connections: nothing is lost, nothing twice."""
    totals, lock = [], threading.Lock()

    def work(number):
        for minute in range(5):
            done = client.upsert_bars(
                [bar(client.tenant_id, minute=minute), bar(client.tenant_id, minute=100 * number + minute)]
            )
            with lock:
                totals.append(done)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = sum(totals, Upserted())
    assert (total.inserted, total.revised, total.unchanged) == (35, 0, 25)
    assert client.bars("AAPL", "1m").num_rows == 35


def test_closing_lets_calls_under_way_end(client, tmp_path):
    """The store is released when the last of them is done."""
    client.upsert_bars([bar(client.tenant_id, minute=m) for m in range(3)])
    assert client.dump("bars", tmp_path / "bars.csv", progress=lambda _done, _all: client.close()).rows == 3
    with pytest.raises(ClientClosed):
        client.health()


def test_importing_the_client_loads_no_store():
    """Nor pandas, Polars or calendars: who only batches rows does not wait for them."""
    heavy = ("deltalake", "psycopg", "pandas", "polars", "exchange_calendars", "fastapi")
    code = f"import sys, mds_client; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
