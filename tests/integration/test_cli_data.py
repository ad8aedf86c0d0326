"""The commands about stored data: what there is, what is missing, filling it, and what this machine can do."""

from __future__ import annotations

import json
import re
import threading
import time

import pytest
import uvicorn

from market_data_core.web.auth import KeyStore, Role
from market_data_orchestrator.app import create_app
from market_data_orchestrator.cli.main import run
from market_data_orchestrator.cli.output import OUT
from market_data_orchestrator.service import Service
from market_data_orchestrator.settings import load_settings
from market_data_store.state import GapState, State
from support.service import RunningService, eventually, free_port

DAY_NS = 86_400 * 1_000_000_000
START_NS = 1_704_205_800 * 1_000_000_000
ROWS = 60


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch, tmp_path):
    for name in ("ORCH_DATA_DIR", "ORCH_URL", "ORCH_PROVIDER", "ORCH_TENANT_ID", "ORCH_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ORCH_HEALTH_PORT", str(free_port()))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def said(capsys):
    """Runs a command line; gives its exit code, standard output and standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def words(text: str) -> str:
    """Without the lines of tables and boxes."""
    return " ".join(re.sub(r"[│┃╭╮╰╯─━]", " ", text).split())


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A data directory with trades of two symbols on two days, bars of them, and three gaps."""
    folder = tmp_path_factory.mktemp("cli-data")
    rows = (
        f"x,{'AB'[i % 2] * 2},{START_NS + (i // 40) * DAY_NS + i * 1_000_000_000},{100 + i / 4},{i + 1},t{i}"
        for i in range(ROWS)
    )
    (folder / "days_trades.csv").write_text("\n".join(["vendor,symbol,ts_event,price,size,trade_id", *rows]) + "\n")
    assert run(["replay", str(folder / "days_trades.csv"), "--data-dir", str(folder / "data"), "--bars", "1s"]) == 0
    state = State(folder / "data" / "state.db")
    state.open_gap("x", "AA", "trades", START_NS, to_ns=START_NS + 90_000_000_000, cause="sequence", detail="7 to 9")
    filled = state.open_gap("x", "*", "*", START_NS - DAY_NS, to_ns=START_NS - DAY_NS + 1, cause="restart")
    state.close_gap(filled.id, state=GapState.FILLED)
    state.open_gap("y", "*", "*", START_NS + DAY_NS, cause="paused")
    state.close()
    return folder / "data"


class Front:
    """The service's real app over a data directory, with nothing running behind it: who fills gaps is the test."""

    def __init__(self, data_dir):
        self.settings = load_settings(data_dir=data_dir, provider="ibkr", symbols="AAPL", health_port=0)
        service = Service(self.settings)
        self.state = service.state = State(data_dir / "state.db")
        app = create_app(service)
        app.state.keys.open()
        config = uvicorn.Config(app, port=0, ws="websockets-sansio", lifespan="off", log_config=None)
        self.server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self.server.run, name="front")

    def __enter__(self):
        self._thread.start()
        eventually(lambda: self.server.started, 20, "the app is served")
        self.url = f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}"
        self.operator = KeyStore(self.settings.data_path / "api-keys.jsonl").add("somebody", Role.OPERATOR)
        return self

    def __exit__(self, *_):
        self.server.should_exit = True
        self._thread.join(20)
        self.state.close()


@pytest.fixture(scope="module")
def front(stored):
    with Front(stored) as served:
        yield served


@pytest.fixture
def asking(front, monkeypatch):
    """The same, with the operator's key in the environment and no gaps but the test's own."""
    monkeypatch.setenv("ORCH_API_KEY", front.operator)
    return front


@pytest.fixture
def worker(front):
    """Fills gaps as it is told: by gap, their state at the end and the error of the job."""
    ends: dict[int, tuple[GapState, str | None]] = {}
    over = threading.Event()

    def work():
        while not over.wait(0.01):
            job = front.state.claim_job("worker", time.time_ns(), kinds=["backfill"])
            if job is None:
                continue
            gap_id = job.params["gap_id"]
            state, error = ends[gap_id]
            # The service enters the job first and marks its gap then.
            eventually(lambda id_=gap_id: front.state.get_gap(id_).state is GapState.FILLING, 10, "the gap is marked")
            front.state.close_gap(gap_id, state=state, detail="as the test says")
            front.state.finish_job(job.id, owner="worker", now_ns=time.time_ns(), result={}, error=error)

    thread = threading.Thread(target=work, name="worker")
    thread.start()
    yield ends
    over.set()
    thread.join(10)


def gap(front, *, vendor="ibkr", over=True):
    from_ns = time.time_ns()
    return front.state.open_gap(
        vendor, "AAPL", "trades", from_ns, to_ns=from_ns + 1 if over else None, cause="link_lost"
    )


def test_gaps_are_listed_newest_first_with_their_filters(stored, said):
    """By vendor, symbol, state and time; a limit that cuts is told; times are read as dates or zones."""
    code, out, err = said("gaps", "--data-dir", stored, "--vendor", "x", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert [g["cause"] for g in found["gaps"]] == ["sequence", "restart"]
    assert not found["more"]
    assert len(json.loads(said("gaps", "--data-dir", stored, "--limit", 1, "--vendor", "x", "--json")[1])["gaps"]) == 1
    asked = ("gaps", "--data-dir", stored, "--json", "--vendor", "x")
    assert json.loads(said(*asked, "--limit", 1)[1])["more"]
    assert [g["state"] for g in json.loads(said(*asked, "--state", "filled")[1])["gaps"]] == ["filled"]
    assert [g["symbol"] for g in json.loads(said(*asked, "--symbol", "aa")[1])["gaps"]] == ["AA", "*"]
    assert [g["cause"] for g in json.loads(said(*asked, "--from", "2024-01-02")[1])["gaps"]] == ["sequence"]


def test_gaps_for_people_say_when_and_why(stored, said, monkeypatch):
    """Dates, a length, and that one goes on."""
    monkeypatch.setattr(OUT, "width", 240)
    code, out, err = said("gaps", "--data-dir", stored)
    assert code == 0
    shown = words(out)
    assert "x AA trades 2024-01-02 14:30:00.000Z 2024-01-02 14:31:30.000Z 1.5 m sequence open 7 to 9" in shown
    assert re.search(r"y \* \* \S+ \S+ goes on - paused", shown)
    assert "gaps" in err


def test_coverage_is_by_day_and_kind(stored, said, monkeypatch):
    """All symbols together for people, each by itself for machines and when it is asked for; --to is left out."""
    monkeypatch.setattr(OUT, "width", 240)
    code, out, err = said("coverage", "--data-dir", stored)
    assert code == 0
    assert "2024-01-02 trades x 2 40 2024-01-02 14:30:00.000Z" in words(out)
    assert "2024-01-03 trades x 2 20 " in words(out)
    assert " bars " in out
    assert "2 symbols" in err
    rows = json.loads(said("coverage", "--data-dir", stored, "--kind", "trades", "--json")[1])["coverage"]
    assert [(r["date"], r["symbol"], r["rows"]) for r in rows] == [
        *(("2024-01-02", "AA", 20), ("2024-01-02", "BB", 20)),
        *(("2024-01-03", "AA", 10), ("2024-01-03", "BB", 10)),
    ]
    asked = ("coverage", "--data-dir", stored, "--kind", "trades", "--symbol", "aa", "--to", "2024-01-03")
    assert "trades x AA 20 " in words(said(*asked)[1])
    assert json.loads(said("coverage", "--data-dir", stored, "--vendor", "nobody", "--json")[1]) == {"coverage": []}


def test_a_service_answers_as_the_data_itself_does(stored, asking, said):
    """--url asks over HTTP, page by page, and gives the same values."""
    for command in (["coverage"], ["coverage", "--symbol", "BB", "--from", "2024-01-03"], ["gaps", "--vendor", "x"]):
        there = said(*command, "--url", asking.url, "--json")
        assert there[0] == 0, there
        assert json.loads(there[1]) == json.loads(said(*command, "--data-dir", stored, "--json")[1])


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["gaps"], 1, "--data-dir"),
        (["coverage"], 1, "--data-dir"),
        (["gaps", "--state", "lost"], 2, "--state"),
        (["gaps", "--limit", "0"], 2, "--limit"),
        (["gaps", "--from", "yesterday"], 2, "--from"),
        (["coverage", "--kind", "opinions"], 2, "opinions"),
        (["coverage", "--to", "2024-01-02T10:00"], 2, "--to"),
        (["backfill"], 2, "--all"),
        (["backfill", "1", "--all"], 2, "--all"),
        (["backfill", "twelve"], 2, "GAP_ID"),
        (["backfill", "1"], 1, "mdo up"),
        (["explain"], 1, "mdo up"),
        (["bench", "--seconds", "1000"], 2, "--seconds"),
        (["gaps", "--url", "http://127.0.0.1:1"], 1, "no service answers"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_use_and_absence_are_told_apart(arguments, code, says, said, tmp_path):
    """2 for what cannot be asked, 1 for what is not there; nothing on standard output, nothing made by asking."""
    got, out, err = said(*arguments)
    assert (got, out) == (code, "")
    assert says in err
    assert not (tmp_path / "data").exists()


def test_a_wrong_key_is_refused_in_words(front, said, monkeypatch):
    """And the message says what to set."""
    monkeypatch.setenv("ORCH_API_KEY", "a-key-that-nobody-made")
    for command in (["gaps"], ["coverage"], ["backfill", "1"]):
        code, out, err = said(*command, "--url", front.url)
        assert (code, out) == (1, "")
        assert "ORCH_API_KEY" in err


def test_filled_gaps_end_with_0(asking, worker, said):
    """Asked for by their ids, they are followed until their data is there."""
    ids = [gap(asking).id for _ in range(2)]
    worker.update(dict.fromkeys(ids, (GapState.FILLED, None)))
    code, out, err = said("backfill", *ids, "--url", asking.url, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)["gaps"]
    assert [(g["gap_id"], g["outcome"], g["provider"], g["detail"]) for g in found] == [
        (id_, "filled", "ibkr", "") for id_ in ids
    ]
    code, out, _ = said("backfill", ids[0], "--url", asking.url)
    assert code == 1
    assert "filled already" in " ".join(out.split())


def test_a_gap_that_cannot_be_filled_ends_with_1(asking, worker, said):
    """The others are filled all the same; what the provider said stands beside it."""
    good, bad = gap(asking).id, gap(asking).id
    worker.update({good: (GapState.FILLED, None), bad: (GapState.UNFILLABLE, "no data")})
    code, out, _ = said("backfill", good, bad, "--url", asking.url, "--json")
    assert code == 1
    found = {g["gap_id"]: g for g in json.loads(out)["gaps"]}
    assert (found[good]["outcome"], found[bad]["outcome"]) == ("filled", "unfillable")
    assert found[bad]["detail"] == "as the test says"


def test_a_gap_whose_job_failed_is_open_again_and_ends_with_1(asking, worker, said):
    """It can be asked for once more."""
    broken = gap(asking).id
    worker[broken] = (GapState.OPEN, "the wire broke")
    code, out, _ = said("backfill", broken, "--url", asking.url, "--json")
    assert (code, json.loads(out)["gaps"][0]["outcome"]) == (1, "failed")
    worker[broken] = (GapState.FILLED, None)
    assert said("backfill", broken, "--url", asking.url)[0] == 0


def test_all_takes_what_is_over_and_not_filled(asking, worker, said):
    """Those that go on are left; what nobody can fill is refused in words, and the rest is filled."""
    for other in asking.state.list_gaps(states=[GapState.OPEN]):
        asking.state.close_gap(other.id, state=GapState.UNFILLABLE)
    fine, lasting, foreign = gap(asking).id, gap(asking, over=False).id, gap(asking, vendor="nobody").id
    worker[fine] = (GapState.FILLED, None)
    code, out, _ = said("backfill", "--all", "--url", asking.url, "--json")
    assert code == 1
    found = {g["gap_id"]: g for g in json.loads(out)["gaps"]}
    assert {id_: g["outcome"] for id_, g in found.items()} == {fine: "filled", foreign: "refused"}
    assert "nobody" in found[foreign]["detail"]
    for id_, word in ((lasting, "not over yet"), (999_999, "no gap 999999")):
        code, out, _ = said("backfill", id_, "--url", asking.url, "--json")
        assert (code, json.loads(out)["gaps"][0]["outcome"]) == (1, "refused")
        assert word in json.loads(out)["gaps"][0]["detail"]
    for id_ in (lasting, foreign):
        asking.state.close_gap(id_, to_ns=time.time_ns() + DAY_NS, state=GapState.FILLED)
    assert said("backfill", "--all", "--url", asking.url)[:2] == (0, "no gap is to be filled\n")


def test_without_waiting_it_is_asked_for_once(asking, said):
    """--no-wait ends once the job is there; asked for again, it is the same job."""
    one = gap(asking).id
    first, again = (
        json.loads(said("backfill", one, "--no-wait", "--url", asking.url, "--json")[1])["gaps"] for _ in range(2)
    )
    assert first == again
    assert first[0]["outcome"] == "asked"
    asking.state.cancel_job(first[0]["job_id"], time.time_ns())
    asking.state.close_gap(one, state=GapState.FILLED)


def test_a_service_that_does_not_run_is_explained(asking, said):
    """What is unwell is named with what it means and what to do; code 1."""
    code, out, _ = said("explain", "--url", asking.url)
    assert code == 1
    assert "component log" in out
    assert "What to do" in out
    code, out, _ = said("explain", "--url", asking.url, "--json")
    assert code == 1
    assert {"component provider", "component runtime"} <= {f["what"] for f in json.loads(out)["findings"]}


def test_a_healthy_service_is_well(tmp_path, said):
    """All is well is said, and code 0 given."""
    with RunningService(tmp_path / "served", PROVIDER_RATE=200, WORKERS="thread") as service:
        service.wait_healthy(40)
        assert said("explain", "--url", service.url)[:2] == (
            0,
            f"All is well: the service at {service.url} is healthy, and every event is accounted for.\n",
        )


def test_the_benchmark_measures_and_leaves_nothing(tmp_path, said, monkeypatch):
    """Rates and latencies above 0, as many events stored as taken in, within its time; its folder is gone."""
    monkeypatch.setenv("ORCH_WORKERS", "thread")
    started = time.monotonic()
    code, out, err = said("bench", "--seconds", "0.5", "--json", "--data-dir", tmp_path / "here" / "data")
    assert (code, err) == (0, "")
    found = json.loads(out)
    for spent in (found["disk"]["sync_ms"], found["log"]["append_to_durable_ms"]):
        assert 0 < spent["p50"] <= spent["p99"] <= spent["max"]
    assert found["log"]["events"] == 20_000
    assert found["store"]["events"] > 0
    assert found["store"]["stored_events_s"] > 0
    assert found["machine"]["folder"] == str(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert time.monotonic() - started < 60
