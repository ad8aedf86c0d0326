"""Text is text: nothing that a user may say is ever read as SQL, as a pattern or as a place for values."""

from __future__ import annotations

import psycopg
import pyarrow as pa
import pytest

from market_data_core.errors import ConfigurationError, SchemaValidationError, ValidationError
from market_data_store.backend import Wanted
from market_data_store.postgres import PostgresStore, register_tenant, retain

NOW_NS = 1_704_110_400 * 10**9

TEXTS = [
    "'; DROP TABLE mds.trades; --",
    '"; DROP TABLE mds.trades; --',
    "x' OR '1'='1",
    "\\'; SELECT pg_terminate_backend(pid) FROM pg_stat_activity; --",
    "%s %(vendor)s %% {columns} {} $1 :x ?",
    "$$; RAISE 'x'; $$",
    "*",
    "\\N",
    "\\.",
    "E'\\\\x00'",
    "\U0001d518nicode\u202e\u2028\n\r\t",
    "a\0b",
]


@pytest.fixture(scope="module")
def dsn(server):
    """One database for all, so that what one text breaks the next would find broken."""
    return server.database()


@pytest.fixture(scope="module")
def filled(dsn, rows):
    with PostgresStore(dsn, "acme") as store, PostgresStore(dsn, "other") as other:
        for tenant in (store, other):
            tenant.table("trades").append(rows("trades", 3, price=[1.0] * 3), writer="w", position=3, covers={})
            tenant.upsert("bars", rows("bars", 3), now_ns=NOW_NS)
        yield store


@pytest.fixture(autouse=True)
def _whole(filled, dsn):
    # Whatever was said, tables, rows and tenants are as they were.
    yield
    with psycopg.connect(dsn) as owner:
        found = owner.execute(
            "SELECT (SELECT count(*) FROM mds.trades WHERE symbol = 'A'),"
            " (SELECT count(*) FROM mds.bars WHERE symbol = 'A'), (SELECT count(DISTINCT tenant_id) FROM mds.trades)"
        ).fetchone()
    assert found == (6, 6, 2)


@pytest.mark.parametrize("text", TEXTS)
def test_no_tenant_is_named_so(dsn, text):
    """A tenant's name is letters, digits and two signs."""
    with pytest.raises(ConfigurationError):
        PostgresStore(dsn, text)
    with pytest.raises((SchemaValidationError, ValidationError)):
        register_tenant(dsn, text)


@pytest.mark.parametrize("text", TEXTS)
def test_vendor_and_symbol_are_stored_and_found(filled, rows, text):
    """As they are, with the picture of what PostgreSQL cannot hold; by all that looks for them."""
    batch = rows("bars", 1, symbol=[text], vendor=[text], close=[5.0])
    assert filled.upsert("bars", batch, now_ns=NOW_NS).inserted == 1
    assert filled.upsert("bars", batch, now_ns=NOW_NS).unchanged == 1
    stored = text.replace("\0", "\u2400")
    wanted = Wanted(vendor=text, symbols=(text,))
    for found in (
        filled.fetch("bars", wanted),
        filled.fetch("bars", Wanted(vendor=text, symbols=(text,), as_of_ns=NOW_NS)),
        pa.Table.from_batches(filled.stream("bars", wanted)),
        filled.coverage("bars", wanted),
        filled.latest_prices([text], vendor=text),
        filled.latest_prices([text]),
        filled.bars(text, "1m", start_ns=0, end_ns=2**63 - 1, vendor=text),
    ):
        assert [(r["vendor"], r["symbol"]) for r in found.to_pylist()] == [(stored, stored)]


@pytest.mark.parametrize("text", TEXTS)
def test_no_table_is_named_so(filled, dsn, rows, text):
    """Everything that takes a table's name knows all there are."""
    for ask in (
        lambda: filled.table(text),
        lambda: filled.fetch(text, Wanted()),
        lambda: filled.stream(text, Wanted()),
        lambda: filled.coverage(text, Wanted()),
        lambda: filled.upsert(text, rows("bars", 1), now_ns=NOW_NS),
        lambda: filled.read(text),
        lambda: retain(dsn, text, before_ns=2**62),
    ):
        with pytest.raises(ConfigurationError, match="declared"):
            ask()


@pytest.mark.parametrize("text", [*TEXTS, "tenant_id", "ctid", "ts_event; --", 'symbol" --'])
def test_no_column_is_named_so(filled, text):
    """Neither to be shown nor to be compared; the tenant is none of a user's columns."""
    for ask in (
        lambda: filled.fetch("bars", Wanted(), columns=[text]),
        lambda: filled.stream("bars", Wanted(), columns=["symbol", text]),
        lambda: filled.read("bars", columns=[text]),
        lambda: filled.fetch("bars", Wanted(equal={text: "x"})),
        lambda: list(filled.stream("bars", Wanted(equal={text: "x"}))),
        lambda: filled.coverage("bars", Wanted(equal={text: "x"})),
    ):
        with pytest.raises(ConfigurationError, match="column"):
            ask()


@pytest.mark.parametrize("text", TEXTS)
def test_a_value_to_compare_with_is_a_value(filled, text):
    """It equals nothing that is stored."""
    for wanted in (Wanted(equal={"interval": text}), Wanted(equal={"interval": "1m", "what": text}, versions=True)):
        assert filled.fetch("bars", wanted).num_rows == 0
        assert list(filled.stream("bars", wanted)) == []
        assert filled.coverage("bars", wanted).num_rows == 0


@pytest.mark.parametrize("text", TEXTS[:-1])
def test_whatever_a_job_says_is_kept(filled, text):
    """Type, payload, key, owner and error, as they are; as a state it is that of no job."""
    made = filled.enqueue(text, {text: [text]}, idempotency_key=text, now_ns=NOW_NS)
    assert (made.job_type, made.payload, made.idempotency_key) == (text, {text: [text]}, text)
    claimed = filled.claim(text, job_types=[text], now_ns=NOW_NS)
    assert (claimed.id, claimed.owner) == (made.id, text)
    assert filled.finish(made.id, owner=text, error=text, now_ns=NOW_NS).error == text
    assert filled.jobs(state=text) == []


@pytest.mark.parametrize("part", ["job_type", "payload", "idempotency_key"])
def test_a_job_with_a_nul_is_refused(filled, part):
    """The database has no place for it, and a job under another name would not be the same."""
    asked = {"job_type": "t", "payload": {}, "idempotency_key": "nul"}
    asked[part] = {"x": "a\0b"} if part == "payload" else "a\0b"
    with pytest.raises(ValidationError):
        filled.enqueue(asked["job_type"], asked["payload"], idempotency_key=asked["idempotency_key"], now_ns=NOW_NS)


@pytest.mark.parametrize("text", TEXTS[:-1])
def test_a_writer_may_be_named_anything(filled, rows, text):
    """Its position is found under that name alone, and so is what it covers."""
    table = filled.table("quotes")
    table.append(rows("quotes", 1), writer=text, position=7, covers={text: 3})
    again = filled.table("quotes")
    assert (again.position(text), again.covers(text)) == (7, {text: 3})
