"""Stored data over HTTP: who may read it, page by page, in bounded time, and SQL that reads and nothing else."""

from __future__ import annotations

import asyncio
import json
import threading

import httpx
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from prometheus_client import CollectorRegistry, Counter

from market_data_core.errors import TemporaryUnavailable
from market_data_core.schemas import STORED_SCHEMAS
from market_data_core.web import create_service_app
from market_data_core.web.auth import ConfiguredKey, KeyStore, Role
from market_data_core.web.ratelimit import RateLimits
from market_data_orchestrator.audit.logger import AuditLogger
from market_data_orchestrator.backfill import BACKFILL, begin_backfill
from market_data_orchestrator.data import StoredData, data_routers
from market_data_orchestrator.service import Service
from market_data_orchestrator.settings import load_settings
from market_data_pipeline.orchestration import RateCoordinator
from market_data_store import open_backend
from market_data_store.state import GapState, JobState, State
from support.service import RunningService, eventually

EVENTS = 20_000
CONFIG = f"""
providers:
  synthetic:
    provider: synthetic
    params:
      {{time: virtual, rate: 1000, count: {EVENTS}, defects: {{bad_values: {{share: 0.01, what: [nan, zero_size]}}}}}}
"""
VIEWER = [
    *("/bars?symbol=AAPL", "/instruments", "/coverage", "/gaps", "/quarantine", "/budgets", "/plan"),
]


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data-api")
    (folder / "platform.yaml").write_text(CONFIG)
    with RunningService(folder / "data", CONFIG=folder / "platform.yaml", BARS="1s", WORKERS="thread") as running:
        running.wait_healthy()
        eventually(lambda: stored(running) == EVENTS, 60, "everything is stored")
        yield running


def stored(service):
    ledger = service.get("/status").json()["ledger"]
    return 0 if ledger.get("queued", 1) or ledger.get("in_flight") else ledger["stored"] + ledger["quarantined"]


@pytest.fixture(scope="module")
def keys(service):
    store = KeyStore(service.data_dir / "api-keys.jsonl")
    return {role: store.add(f"some-{role}", role) for role in Role}


@pytest.fixture
def ask(service, keys):
    def call(method, path, *, role=Role.VIEWER, **options):
        headers = options.pop("headers", {}) | ({} if role is None else {"X-API-Key": keys[role]})
        return service.client.request(method, f"{service.url}{path}", headers=headers, timeout=60, **options)

    return call


def walk(ask, path, **params):
    """All rows, page by page."""
    rows, pages = [], 0
    while True:
        answer = ask("GET", path, params=params)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        assert len(page["items"]) <= params.get("limit", 100)
        assert ("link" in answer.headers) == (page["next"] is not None)
        rows += page["items"]
        pages += 1
        if page["next"] is None:
            return rows, pages
        params["cursor"] = page["next"]


def external_bars(*starts_ns, close=1.0, symbol="AAPL"):
    rows = [
        {
            "vendor": "other",
            "symbol": symbol,
            "ts_event": t,
            "flags": 0,
            "origin": "backfill",
            "interval": "1s",
            "what": "TRADES",
            "session": "ALL",
            "source": "external",
            "open": close,
            "high": close,
            "low": close,
            "close": close,
            "volume": 1.0,
        }
        for t in starts_ns
    ]
    return pa.Table.from_pylist(rows, schema=STORED_SCHEMAS["bars"])


@pytest.mark.parametrize("path", VIEWER)
def test_viewers_may_read_and_nobody_else_may(ask, path):
    """401 without a key, 200 with any."""
    assert ask("GET", path, role=None).status_code == 401
    assert ask("GET", path).status_code == 200


def test_queries_are_for_viewers_and_backfills_for_operators(ask):
    """403 says which role is needed; nothing is looked at before that, not even the body."""
    assert ask("POST", "/query", role=None, json={"sql": "select 1"}).status_code == 401
    assert ask("POST", "/query", role=None, content=b"{").status_code == 401
    assert ask("POST", "/query", json={"sql": "select 1 as one"}).json()["rows"] == [[1]]
    assert ask("POST", "/backfill", role=None, json={"gap_id": 1}).status_code == 401
    assert ask("POST", "/backfill", json={"gap_id": 1}).status_code == 403
    assert ask("POST", "/backfill", role=Role.OPERATOR, json={"gap_id": 999}).status_code == 404


def test_bars_are_walked_once_each_in_order(ask):
    """Page by page as in one: by time, all of one symbol, prices and times as stored."""
    rows, pages = walk(ask, "/bars", symbol="aapl", interval="1s", vendor="synthetic", limit=3)
    whole, _ = walk(ask, "/bars", symbol="AAPL", interval="1s", vendor="synthetic", limit=1000)
    assert rows == whole
    assert pages > 5
    starts = [row["ts_event"] for row in rows]
    assert starts == sorted(set(starts))
    assert {row["symbol"] for row in rows} == {"AAPL"}
    assert [*rows[0]] == STORED_SCHEMAS["bars"].names


def test_a_range_of_bars_has_its_end_left_out(ask):
    """In nanoseconds or as a moment with its zone; without one it is refused."""
    rows, _ = walk(ask, "/bars", symbol="AAPL", interval="1s", vendor="synthetic")
    start, end = rows[3]["ts_event"], rows[8]["ts_event"]
    some, _ = walk(ask, "/bars", symbol="AAPL", interval="1s", vendor="synthetic", start=start, end=end)
    assert some == rows[3:8]
    since, _ = walk(ask, "/bars", symbol="AAPL", interval="1s", vendor="synthetic", start="2024-01-02T09:30:00-05:00")
    assert since == rows
    answer = ask("GET", "/bars", params={"symbol": "AAPL", "start": "2024-01-02T14:30:00"})
    assert (answer.status_code, "time zone" in answer.text) == (422, True)


def test_bars_are_walked_once_while_others_come(ask, service):
    """Of those that were there each is given once; one behind the walker is not, one ahead is, a revision is no bar."""
    second = 1_000_000_000
    base = 1_800_000_000 * second
    with_gaps = [base + n * 10 * second for n in range(20)]
    backend = open_backend(str(service.data_dir / "lake"), "default")
    backend.upsert("bars", external_bars(*with_gaps, symbol="WALKED"), now_ns=base)
    params = {"symbol": "WALKED", "interval": "1s", "limit": 5}
    first = ask("GET", "/bars", params=params).json()
    seen = first["items"]
    behind, ahead = base + second, base + 155 * second
    backend.upsert("bars", external_bars(behind, ahead, symbol="WALKED"), now_ns=base + 1)
    backend.upsert("bars", external_bars(with_gaps[0], with_gaps[-1], close=2.0, symbol="WALKED"), now_ns=base + 2)
    rest, _ = walk(ask, "/bars", **params, cursor=first["next"])
    seen += rest
    starts = [row["ts_event"] for row in seen]
    assert starts == sorted({*with_gaps, ahead})
    assert (seen[0]["close"], seen[-1]["close"], seen[-1]["revision"]) == (1.0, 2.0, 1)
    then, _ = walk(ask, "/bars", symbol="WALKED", interval="1s", as_of=base)
    assert [row["ts_event"] for row in then] == with_gaps
    backend.close()


@pytest.mark.parametrize(
    ("path", "params"),
    [
        ("/bars", {}),
        ("/bars", {"symbol": ""}),
        ("/bars", {"symbol": "AAPL", "interval": "1 fortnight"}),
        ("/bars", {"symbol": "AAPL", "limit": 1001}),
        ("/bars", {"symbol": "AAPL", "cursor": "made-up"}),
        ("/bars", {"symbol": "AAPL", "start": "yesterday"}),
        ("/bars", {"symbol": "AAPL", "start": "9" * 19}),
        ("/bars", {"symbol": "AAPL", "source": "mine"}),
        ("/coverage", {"table": "passwords"}),
        ("/gaps", {"state": "lost"}),
        ("/gaps", {"cursor": "WzFd"}),
    ],
)
def test_wrong_parameters_are_named(ask, path, params):
    """422 with what is wrong, never a 500."""
    answer = ask("GET", path, params=params)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")


def test_a_cursor_is_good_for_the_same_question_alone(ask):
    """With another symbol it is refused, instead of beginning somewhere."""
    cursor = ask("GET", "/bars", params={"symbol": "AAPL", "interval": "1s", "limit": 1}).json()["next"]
    assert ask("GET", "/bars", params={"symbol": "MSFT", "interval": "1s", "cursor": cursor}).status_code == 422


def test_instruments_and_coverage_agree_with_what_is_stored(ask):
    """Every instrument with its tables, first and last moments; rows by date add up to the same."""
    instruments, _ = walk(ask, "/instruments", vendor="synthetic", limit=3)
    assert [row["symbol"] for row in instruments] == sorted(row["symbol"] for row in instruments)
    counted = ask("POST", "/query", json={"sql": "select symbol, count(*) from trades group by symbol"}).json()["rows"]
    assert {row["symbol"]: row["tables"]["trades"]["rows"] for row in instruments} == dict(map(tuple, counted))
    covered, _ = walk(ask, "/coverage", table="trades", limit=4)
    assert {(row["symbol"], row["date"]): row["rows"] for row in covered} == {
        (symbol, "2024-01-02"): count for symbol, count in counted
    }


def test_quarantined_rows_come_newest_first(ask):
    """Each once, with the reason and the raw text."""
    rows, pages = walk(ask, "/quarantine", limit=50)
    seqs = [row["seq"] for row in rows]
    assert pages > 2
    assert seqs == sorted(set(seqs), reverse=True)
    assert len(rows) == ask("POST", "/query", json={"sql": "select count(*) from quarantine"}).json()["rows"][0][0]
    assert all(row["reason"] and row["raw"] for row in rows)


def test_gaps_are_walked_newest_first_and_filtered(ask, service):
    """By their beginning, with filters; one of all symbols is among those of one."""
    with_state = State(service.data_dir / "state.db")
    for n in range(9):
        with_state.open_gap(
            "gappy", "*" if n % 3 == 0 else f"S{n % 3}", "*", n * 10, to_ns=n * 10 + 5, cause="sequence"
        )
    rows, pages = walk(ask, "/gaps", vendor="gappy", limit=2)
    assert (pages, [row["from_ns"] for row in rows]) == (5, [n * 10 for n in reversed(range(9))])
    of_one, _ = walk(ask, "/gaps", vendor="gappy", symbol="S1")
    assert {row["symbol"] for row in of_one} == {"*", "S1"}
    assert walk(ask, "/gaps", vendor="gappy", state="filled")[0] == []
    with_state.close()


def test_what_cannot_be_filled_stays_open(ask, service):
    """409 names the provider that has no history; a gap that goes on, or of nobody that is configured, is told so."""
    with_state = State(service.data_dir / "state.db")
    over = with_state.open_gap("synthetic", "*", "*", 1, to_ns=5, cause="paused")
    nobody = with_state.open_gap("nobody", "A", "trades", 1, to_ns=5, cause="sequence")
    lasting = with_state.open_gap("synthetic", "A", "trades", 7, cause="disconnect")
    said = {
        gap.id: ask("POST", "/backfill", role=Role.OPERATOR, json={"gap_id": gap.id}) for gap in (over, nobody, lasting)
    }
    assert {answer.status_code for answer in said.values()} == {409}
    assert "synthetic cannot give history" in said[over.id].json()["detail"]
    assert "nobody" in said[nobody.id].json()["detail"]
    assert "not over yet" in said[lasting.id].json()["detail"]
    assert {with_state.get_gap(gap).state for gap in said} == {GapState.OPEN}
    assert with_state.list_jobs(kind=BACKFILL) == []
    for body in ({}, {"gap_id": "x"}, {"gap_id": 0}, {"gap_id": 1, "force": True}):
        assert ask("POST", "/backfill", role=Role.OPERATOR, json=body).status_code == 422
    with_state.close()


def test_a_gap_of_a_provider_with_history_gets_one_job(tmp_path):
    """Asked for again while it is under way, the same job; after it has failed, another one."""

    class Historical:
        vendors = ("acme",)

        async def request_historical_bars(self, symbol, resolution, *, start_ns, end_ns):
            return ()

    config = Service(load_settings(data_dir=tmp_path)).config
    state = State(tmp_path / "state.db")
    gap = state.open_gap("acme", "A", "trades", 1, to_ns=5, cause="sequence")

    def begin(now_ns):
        return begin_backfill(state, config, gap.id, now_ns=now_ns, class_of=lambda entry: Historical)

    first = begin(1)
    assert begin(2).id == first.id
    assert (state.get_gap(gap.id).state, state.get_job(first.id).state) == (GapState.FILLING, JobState.QUEUED)
    state.claim_job("me", 3, kinds=(BACKFILL,))
    state.finish_job(first.id, owner="me", now_ns=4, error="the wire broke")
    assert begin(5).id != first.id
    state.close()


ATTACKS = [
    "drop table trades",
    "delete from trades",
    "insert into trades select * from trades",
    "copy trades to '/tmp/stolen.csv'",
    "create external table x stored as csv location '/etc/passwd'",
    "select 1; select 2",
    "select * from '/etc/passwd'",
    "set datafusion.runtime.memory_limit = '1G'",
    "select * from information_schema.tables",
    "",
]


@pytest.mark.parametrize("sql", ATTACKS, ids=range(len(ATTACKS)))
def test_sql_that_may_not_be_asked_is_refused(ask, service, sql):
    """422, with nothing of the machine in it, and the tables as they were."""
    before = sorted(p.name for p in (service.data_dir / "lake" / "default").iterdir())
    answer = ask("POST", "/query", json={"sql": sql})
    assert answer.status_code == 422, answer.text
    assert str(service.data_dir) not in answer.text
    assert sorted(p.name for p in (service.data_dir / "lake" / "default").iterdir()) == before


def test_limits_hold_whatever_the_caller_asks_for(ask):
    """Rows beyond the limit are cut off and that is said; too long a query is ended, too large a body not read."""
    cut = ask("POST", "/query", json={"sql": "select seq from trades", "limit": 10}).json()
    assert (len(cut["rows"]), cut["truncated"]) == (10, True)
    slow = "select count(*) from trades a, trades b, trades c where a.price + b.price + c.price < 0"
    ended = ask("POST", "/query", json={"sql": slow, "timeout_s": 1.5})
    assert (ended.status_code, "limit" in ended.json()["detail"]) == (422, True)
    assert ask("POST", "/query", content=b'{"sql": "' + b"x" * 2_000_000 + b'"}').status_code == 413
    assert ask("POST", "/query", json={"sql": "select 1", "timeout_s": -1}).status_code == 422


def test_results_come_in_the_form_that_is_accepted(ask):
    """The same rows as JSON, CSV and an Arrow stream, with types, dates as text, and whether there are more."""
    sql = "select seq, price, symbol, to_timestamp_nanos(ts_event) as at from trades order by seq"
    forms = {
        form: ask("POST", "/query", json={"sql": sql, "limit": 3}, headers={"Accept": form})
        for form in ("application/json", "text/csv;q=0.9, text/html", "application/vnd.apache.arrow.stream")
    }
    assert {answer.headers["x-truncated"] for answer in forms.values()} == {"true"}
    as_json, as_csv, as_arrow = forms.values()
    table = pa.ipc.open_stream(as_arrow.content).read_all()
    assert as_json.json()["columns"] == [{"name": f.name, "type": str(f.type)} for f in table.schema]
    assert [row[:3] for row in as_json.json()["rows"]] == [[*row.values()][:3] for row in table.drop("at").to_pylist()]
    assert as_json.json()["rows"][0][3].startswith("2024-01-02 14:30:00")
    assert as_csv.text.splitlines()[0] == '"seq","price","symbol","at"'
    assert len(as_csv.text.splitlines()) == 4
    assert ask("POST", "/query", json={"sql": sql}, headers={"Accept": "image/png"}).status_code == 406


def test_odd_values_are_written_all_the_same(ask):
    """What JSON has no word for: not a number, bytes, lists, nothing."""
    sql = "select cast('nan' as double) as a, null as b, make_array(1, 2) as c, encode('x', 'hex') as d, true as e"
    assert ask("POST", "/query", json={"sql": sql}).json()["rows"] == [[None, None, [1, 2], "78", True]]
    empty = ask("POST", "/query", json={"sql": "select seq from trades where seq < 0"}).json()
    assert (empty["rows"], empty["truncated"]) == ([], False)


def test_queries_are_on_the_record(ask):
    """Who, what, how many rows, how long; secrets in the text are not."""
    ask("POST", "/query", json={"sql": "select 'mdk_abcdefghijkl' as x, count(*) from quotes"})
    ask("POST", "/query", json={"sql": "drop table quotes"})
    events = ask("GET", "/audit/events", params={"action": "query", "limit": 2}).json()["events"]
    refused, done = events
    assert (refused["result"]["status"], done["result"]["status"]) == ("error", "ok")
    assert {event["actor"] for event in events} == {"some-viewer"}
    said = json.dumps(done)
    assert "count(*) from quotes" in said
    assert "mdk_abcdefghijkl" not in said
    assert "1 rows" in said


def test_the_plan_says_what_a_reload_would_change(ask, service):
    """Nothing, then the difference, then why it would be refused; what runs is told in any case."""
    file = service.data_dir.parent / "platform.yaml"
    now = ask("GET", "/plan").json()
    assert (now["changes"], now["problem"]) == ([], None)
    try:
        file.write_text(CONFIG + "policies:\n  query_max_rows: 7\n")
        then = ask("GET", "/plan").json()
        assert [(c["section"], c["action"]) for c in then["changes"]] == [("setting", "changed")]
        file.write_text("providers: [")
        broken = ask("GET", "/plan").json()
        assert broken["problem"]
        assert broken["configuration"] == now["configuration"]
    finally:
        file.write_text(CONFIG)


@pytest.fixture
def apart(tmp_path):
    """The routes over a store of their own, and clients of them."""

    def make(*, rates=None, **options):
        service = Service(load_settings(data_dir=tmp_path / "data"))
        data = StoredData(service.settings, **options)
        audit = AuditLogger(tmp_path / "audit.jsonl", keys_path=tmp_path / "audit.keys")
        app = create_service_app(title="t", version="1", registry=CollectorRegistry())
        failures = Counter("failures", "t", ["reason"], registry=CollectorRegistry())
        for router in data_routers(
            service,
            data,
            [ConfiguredKey("the-key")],
            audit=audit,
            limits=RateLimits(None, []),
            failures=failures,
            rates=lambda: rates,
        ):
            app.include_router(router)
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        client = httpx.AsyncClient(transport=transport, base_url="http://test", headers={"X-API-Key": "the-key"})
        return data, client

    return make


async def test_budgets_are_those_of_the_providers(apart):
    """Name, tokens left, cooldowns; an empty page where nobody keeps any."""
    rates = RateCoordinator()
    rates.register_provider("b", capacity=5, refill_rate=1)
    rates.register_provider("a", capacity=60, refill_rate=60)
    await rates.trigger_cooldown("b", "history")
    _, client = apart(rates=rates)
    page = (await client.get("/budgets", params={"limit": 1})).json()
    assert [row["provider"] for row in page["items"]] == ["a"]
    (row,) = (await client.get("/budgets", params={"limit": 1, "cursor": page["next"]})).json()["items"]
    assert (row["provider"], row["capacity"], [*row["cooldowns"]], row["breaker"]) == ("b", 5, ["history"], "closed")
    _, none = apart()
    assert (await none.get("/budgets")).json() == {"items": [], "next": None}


async def test_a_store_that_is_not_there_yet_has_nothing(apart):
    """Empty pages; its state, which a service that has not started lacks, is a 503."""
    _, client = apart()
    for path in ("/bars?symbol=A", "/instruments", "/coverage", "/quarantine"):
        assert (await client.get(path)).json() == {"items": [], "next": None}, path
    assert (await client.get("/gaps")).status_code == 503


async def test_slow_storage_holds_up_nobody_for_longer_than_is_said(apart):
    """Who waits too long is told to come again, so is one too many at once; the service answers all the while."""
    data, client = apart(threads=1, max_waiting=1, timeout_s=0.2)
    free = threading.Event()
    stuck = asyncio.create_task(data.run(lambda: free.wait(30)))
    waiting = asyncio.create_task(data.run(lambda: None))
    await asyncio.to_thread(eventually, lambda: data.under_way == 2, 5, "both are under way")
    full = await client.get("/bars?symbol=A")
    assert (full.status_code, full.headers["retry-after"]) == (503, "1")
    for task in (stuck, waiting):
        with pytest.raises(TemporaryUnavailable):
            await task
    free.set()
    await asyncio.to_thread(eventually, lambda: data.under_way == 0, 5, "both have ended")
    assert (await client.get("/budgets")).status_code == 200
    assert await data.run(lambda: pc.sum(pa.array([1])).as_py()) == 1
