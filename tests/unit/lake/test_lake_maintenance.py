"""Upkeep of a lake: what it rewrites, cleans and deletes, and what it must leave alone."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from hypothesis import given
from hypothesis import strategies as st

from market_data_core.errors import ConfigurationError, TemporaryUnavailable, WriterConflict
from market_data_core.schemas import TABLE_SCHEMAS, Kind
from market_data_core.steps import Step
from market_data_store.lake import TABLES, MaintenancePolicy, maintain, rewriting
from market_data_store.lake.planning import CompactionPolicy, Job, Layout, StoredFile, plan
from market_data_store.lake.rewriting import rewrite

DAY_NS = 86_400 * 1_000_000_000
HOUR_NS = 3600 * 10**9
JAN_1_NS = 19_723 * DAY_NS
FAR_NS = 4 * 10**18
"""2096: every date of the tests is long finished, every file old."""

QUICK = MaintenancePolicy(compaction=CompactionPolicy(fan_in=3), checkpoint_commits=5, log_versions=3)


def _fill(lake, trades, commits, *, rows=4, writer="w"):
    table = lake.table("trades")
    for i in range(commits):
        table.append(trades(i * rows, rows), writer=writer, position=(i + 1) * rows, covers={"s": i})
    return commits * rows


def test_rewriting_changes_no_row(lake, trades, seqs):
    """A finished date becomes one sorted file of the same rows; positions and covers stay."""
    count = _fill(lake, trades, 10)
    before = lake.read("trades").sort_by("seq")
    report = maintain(lake, now_ns=FAR_NS, policy=QUICK)
    assert (report.files_replaced, report.files_written, report.failures) == (10, 1, [])
    assert lake.read("trades").sort_by("seq").equals(before)
    assert seqs(lake) == list(range(count))
    keys = lake.read("trades").select(["symbol", "ts_event", "seq"]).to_pylist()
    assert keys == sorted(keys, key=lambda r: (r["symbol"], r["ts_event"], r["seq"]))
    table = lake.table("trades")
    assert (table.position("w"), table.covers("w")) == (count, {"s": 9})


def test_a_second_run_finds_nothing_to_do(lake, trades):
    """Upkeep comes to rest."""
    _fill(lake, trades, 10)
    maintain(lake, now_ns=FAR_NS, policy=QUICK)
    maintain(lake, now_ns=FAR_NS + DAY_NS, policy=QUICK)
    report = maintain(lake, now_ns=FAR_NS + 2 * DAY_NS, policy=QUICK)
    assert (report.files_replaced, report.checkpoints, report.files_deleted, report.failures) == (0, 0, 0, [])


def test_a_finished_date_gets_files_that_share_no_instrument(lake, trades, seqs):
    """No more rows than fit in memory are in a file, and only an instrument too large for one is in two."""
    table = lake.table("trades")
    for i in range(6):
        rows = trades(i * 50, 50, symbols=("BIG", "A", "BIG", "C", "D", "BIG", "BIG"))
        table.append(rows, writer="w", position=i * 50 + 50, covers={})
    policy = MaintenancePolicy(compaction=CompactionPolicy(max_rows=60))
    assert maintain(lake, now_ns=FAR_NS, policy=policy).failures == []
    files = pa.table(DeltaTable(lake.path / "trades").get_add_actions(flatten=True)).to_pylist()
    assert max(f["num_records"] for f in files) <= 60
    assert len(files) > 3
    ranges = sorted((f["min.symbol"], f["max.symbol"]) for f in files)
    assert [r for r in ranges if "BIG" not in r] == [("A", "A"), ("C", "C"), ("D", "D")]
    assert {r for r in ranges if "BIG" in r} == {("BIG", "BIG")}
    assert seqs(lake) == list(range(300))


def test_rows_without_a_symbol_are_rewritten_too(lake):
    """Quarantine has rows that name no instrument."""
    schema = TABLE_SCHEMAS[Kind.QUARANTINE]
    table = lake.table("quarantine")
    for seq in range(4):
        row = dict.fromkeys(schema.names) | {"ts_event": 0, "ts_recv": JAN_1_NS, "seq": seq, "raw": "?"}
        row["symbol"] = "A" if seq == 3 else None
        table.append(pa.Table.from_pylist([row], schema=schema), writer="w", position=seq + 1, covers={})
    assert maintain(lake, now_ns=FAR_NS).failures == []
    assert sorted(lake.read("quarantine")["seq"].to_pylist()) == [0, 1, 2, 3]
    assert lake.counts()["quarantine"].files == 2


def test_a_rewrite_that_would_lose_rows_is_not_committed(lake, trades, seqs, monkeypatch):
    """What was written is counted against what was read, and removed if they differ."""
    count = _fill(lake, trades, 10)
    whole = rewriting._by_instrument
    monkeypatch.setattr(rewriting, "_by_instrument", lambda source, rows: list(whole(source, rows))[1:])
    report = maintain(lake, now_ns=FAR_NS, policy=QUICK)
    assert "gave 0 rows instead of 40" in report.failures[0]
    assert seqs(lake) == list(range(count))
    assert len(lake.folder("trades").data_files()) == 10


def test_the_date_being_filled_is_rewritten_in_tiers(lake, trades):
    """A row is rewritten once per power of the fan-in, however many commits come."""
    table = lake.table("trades")
    written = 0
    commits = 27
    for i in range(commits):
        table.append(trades(i * 3, 3), writer="w", position=i * 3 + 3, covers={})
        before = {p.name for p in lake.folder("trades").data_files()}
        maintain(lake, now_ns=JAN_1_NS + HOUR_NS, policy=QUICK, tables=["trades"])
        new = [p for p in lake.folder("trades").data_files() if p.name not in before]
        written += sum(pq.read_metadata(p).num_rows for p in new)
    assert lake.counts()["trades"].files <= 8
    assert written <= commits * 3 * 4


files_strategy = st.lists(
    st.builds(
        StoredFile,
        name=st.uuids().map(lambda u: f"date=x/part-{u}.parquet") | st.uuids().map(lambda u: f"date=x/day-{u}.parquet"),
        date=st.sampled_from(["2024-01-01", "2024-01-02"]),
        rows=st.integers(0, 3000),
        size_bytes=st.integers(1, 100),
        modified_ms=st.integers(0, 2000),
    ),
    max_size=30,
)


@given(files_strategy)
def test_a_plan_takes_each_file_once_and_merges_within_bounds(files):
    """Jobs never share a file, never mix dates, and a merge fits in memory and makes fewer files."""
    policy = CompactionPolicy(fan_in=3, max_rows=2000, settle_ns=10**9)
    jobs = plan(files, today="2024-01-02", now_ns=2 * 10**9, policy=policy)
    taken = [f.name for j in jobs for f in j.inputs]
    assert len(taken) == len(set(taken))
    for job in jobs:
        assert {f.date for f in job.inputs} == {job.date}
        if job.layout is Layout.MERGED:
            assert len(job.inputs) >= 2
            assert sum(f.rows for f in job.inputs) <= policy.max_rows
        else:
            assert job.date < "2024-01-02"


def test_the_log_is_shortened_and_still_tells_everything(lake, trades, reopened, seqs):
    """Commits that a durable checkpoint holds go once they are old; writers, readers and a restart go on."""
    count = _fill(lake, trades, 12)
    idle = lake.table("trades")
    young = maintain(lake, now_ns=JAN_1_NS, policy=QUICK, tables=["trades"])
    assert (young.checkpoints, young.commits_cleaned) == (1, 0)
    old = maintain(lake, now_ns=FAR_NS, policy=QUICK, tables=["trades"])
    assert old.commits_cleaned > 5
    log = lake.folder("trades").log
    assert log.versions() == list(range(log.versions()[0], log.versions()[-1] + 1))
    assert (idle.position("w"), idle.covers("w")) == (count, {"s": 11})
    again = reopened(lake)
    assert (again.repairs, seqs(again)) == ([], list(range(count)))
    assert again.table("trades").covers("w") == {"s": 11}


def test_a_view_older_than_the_log_writes_nothing_behind_it(lake, trades, seqs, reopened):
    """A handle whose version was cleaned away is refused, or goes on at the end; never in the hole."""
    count = _fill(lake, trades, 3)
    idle = lake.table("trades")
    other = lake.table("trades")
    for i in range(12):
        other.append(trades(100 + i, 1), writer="v", position=i, covers={})
    maintain(lake, now_ns=FAR_NS, policy=QUICK, tables=["trades"])
    version = lake.table("trades").version
    assert lake.folder("trades").log.versions()[0] > idle.version
    try:
        idle.append(trades(count, 1), writer="w", position=count + 1, covers={})
    except TemporaryUnavailable:
        lake.table("trades").append(trades(count, 1), writer="w", position=count + 1, covers={})
    assert lake.folder("trades").log.versions()[-1] == version + 1
    assert seqs(reopened(lake)) == [*range(count + 1), *range(100, 112)]


def test_replaced_files_stay_for_readers_until_their_time(lake, trades):
    """A file is deleted when it was replaced long enough ago, not when it was written long ago."""
    _fill(lake, trades, 10)
    maintain(lake, now_ns=FAR_NS, policy=QUICK)
    assert len(lake.folder("trades").data_files()) == 11
    assert maintain(lake, now_ns=FAR_NS + HOUR_NS // 2, policy=QUICK).files_deleted == 0
    assert maintain(lake, now_ns=FAR_NS + 2 * HOUR_NS, policy=QUICK).files_deleted == 10
    assert len(lake.folder("trades").data_files()) == 1


def test_files_of_an_append_under_way_are_left_alone(lake, trades, at_step, seqs):
    """Nobody names them yet, but they are young; what is old and nameless goes."""
    orphan = lake.path / "trades" / "date=2024-01-01" / "part-dead-1-0.parquet"
    table = lake.table("trades")
    table.append(trades(0, 1), writer="w", position=1, covers={})
    orphan.write_bytes(b"PAR1")
    os.utime(orphan, ns=(0, 0))
    now_ns = max(p.stat().st_mtime_ns for p in lake.folder("trades").data_files()) + HOUR_NS // 2
    reports = []

    def clean(step):
        if step is Step.DATA_FILE_SYNCED:
            at_step(None)
            reports.append(maintain(lake, now_ns=now_ns, policy=QUICK))

    at_step(clean)
    table.append(trades(1, 1), writer="w", position=2, covers={})
    assert reports[0].files_deleted == 1
    assert not orphan.exists()
    assert seqs(lake) == [0, 1]


@pytest.fixture
def soon_ns():
    """In half an hour: the dates of the tests are finished, no file is old."""
    return time.time_ns() + HOUR_NS // 2


def test_of_two_that_rewrite_the_same_files_one_gives_up(lake, trades, at_step, seqs, soon_ns):
    """The later commit conflicts, is counted, and takes its files back."""
    count = _fill(lake, trades, 10)
    inner = []

    def meet(step):
        if step is Step.MAINTENANCE_WRITTEN:
            at_step(None)
            inner.append(maintain(lake, now_ns=soon_ns, policy=QUICK, tables=["trades"]))

    at_step(meet)
    outer = maintain(lake, now_ns=soon_ns, policy=QUICK, tables=["trades"])
    assert (inner[0].files_written, inner[0].conflicts) == (1, 0)
    assert (outer.files_written, outer.conflicts, outer.failures) == (0, 1, [])
    assert seqs(lake) == list(range(count))
    assert len(lake.folder("trades").data_files()) == 11


def test_a_view_opened_before_a_rewrite_commits_after_it(lake, trades, at_step, seqs, soon_ns):
    """Writers never conflict with upkeep."""
    count = _fill(lake, trades, 10)
    table = lake.table("trades")

    def meet(step):
        if step is Step.DATA_FILE_SYNCED:
            at_step(None)
            assert maintain(lake, now_ns=soon_ns, policy=QUICK).files_written == 1

    at_step(meet)
    table.append(trades(count, 1), writer="w", position=count + 1, covers={})
    assert seqs(lake) == list(range(count + 1))


def test_what_fails_is_reported_and_the_rest_is_done(lake, trades, seqs):
    """A data file that cannot be read keeps a date from being rewritten, not the log from being shortened."""
    _fill(lake, trades, 10)
    victim = lake.folder("trades").data_files()[0]
    victim.write_bytes(bytes(victim.stat().st_size))
    report = maintain(lake, now_ns=FAR_NS, policy=QUICK, tables=["trades"])
    assert (report.checkpoints, report.files_written) == (1, 0)
    assert ["trades" in f and "2024-01-01" in f for f in report.failures] == [True]


def test_a_checkpoint_gets_its_name_when_it_is_durable(lake, trades, on_sync, reopened, seqs):
    """A power cut never leaves half of one where readers look; what a crash leaves beside the log is cleared away."""
    log, durable = lake.folder("trades").log, {}

    def note(what, path):
        if what == "file" and path.name.endswith(".checkpoint.parquet"):
            durable[path.name] = path.read_bytes(), log.checkpoints()

    on_sync(note)
    for writer in ("first", "second"):
        count = _fill(lake, trades, 10, writer=writer)
        assert maintain(lake, now_ns=0, policy=QUICK, tables=["trades"]).failures == []
        newest = log.checkpoint_path(log.checkpoints()[-1])
        content, there = durable[newest.name]
        assert newest.read_bytes() == content
        assert newest not in map(log.checkpoint_path, there)
    left = log.folder / "_checkpoint-left" / "_delta_log"
    left.mkdir(parents=True)
    again = reopened(lake)
    assert seqs(again) == sorted(2 * list(range(count)))
    assert [p.name for p in log.folder.iterdir() if p.name.startswith("_checkpoint")] == []


@pytest.mark.parametrize("setting", [{"data_retention_ns": 2 * DAY_NS}, {"checkpoint_commits": 0}, {"log_versions": 0}])
def test_a_policy_that_could_lose_data_is_refused(setting):
    """Checkpoints forget removed files after a day, and the log needs its end."""
    with pytest.raises(ConfigurationError):
        MaintenancePolicy(**setting)


def test_rewriting_alone_commits_nothing(lake, trades):
    """Files are written beside the old ones; the table does not know them."""
    _fill(lake, trades, 3)
    folder = lake.folder("trades")
    files = pa.table(folder.open().get_add_actions(flatten=True)).to_pylist()
    inputs = tuple(
        StoredFile(
            name=f["path"], date=f["partition.date"], rows=f["num_records"], size_bytes=f["size_bytes"], modified_ms=0
        )
        for f in files
    )
    written = rewrite(folder, Job(date="2024-01-01", layout=Layout.MERGED, inputs=inputs), max_rows=1000)
    assert [f.rows for f in written] == [12]
    assert lake.counts()["trades"].files == 3


@pytest.mark.parametrize("step", [Step.DATA_FILE_WRITTEN, Step.DATA_FILE_SYNCED, Step.TABLE_COMMITTED])
def test_a_log_cleaned_in_mid_append_does_not_fail_it(lake, trades, at_step, soon_ns, step):
    """Upkeep cleans away what the writer's view stands on: the view is renewed, the rows go in once."""
    table, other = lake.table("trades"), lake.table("trades")
    table.append(trades(0, 3), writer="slow", position=3, covers={"s": 0})
    policy = MaintenancePolicy(
        compaction=CompactionPolicy(fan_in=2), checkpoint_commits=2, log_versions=2, log_retention_ns=0
    )

    def overtake(at):
        if at is not step:
            return
        at_step(None)
        for i in range(6):
            other.append(trades(100 + i * 2, 2), writer="other", position=(i + 1) * 2, covers={})
        report = maintain(lake, now_ns=soon_ns, policy=policy, tables=["trades"])
        assert (report.failures, report.commits_cleaned > 0) == ([], True)

    at_step(overtake)
    table.append(trades(3, 4), writer="slow", position=7, covers={"s": 1})
    table.append(trades(7, 1), writer="slow", position=8, covers={"s": 2})
    assert lake.table("trades").position("slow") == 8
    assert lake.table("trades").covers("slow") == {"s": 2}
    assert sorted(lake.read("trades")["seq"].to_pylist()) == [*range(8), *range(100, 112)]


def test_a_writer_overtaken_by_its_own_name_is_told(lake, trades, at_step, soon_ns):
    """A renewed view that shows another's commit as the same writer is a conflict; its rows stay out."""
    table, other = lake.table("trades"), lake.table("trades")
    policy = MaintenancePolicy(
        compaction=CompactionPolicy(fan_in=2), checkpoint_commits=2, log_versions=2, log_retention_ns=0
    )

    def overtake(at):
        if at is not Step.DATA_FILE_SYNCED:
            return
        at_step(None)
        for i in range(6):
            other.append(trades(100 + i * 2, 2), writer="w", position=(i + 1) * 2, covers={})
        assert maintain(lake, now_ns=soon_ns, policy=policy, tables=["trades"]).failures == []

    at_step(overtake)
    with pytest.raises(WriterConflict, match="somebody else"):
        table.append(trades(0, 3), writer="w", position=3, covers={})
    assert sorted(lake.read("trades")["seq"].to_pylist()) == list(range(100, 112))


def test_writers_readers_and_upkeep_at_once(lake, trades, soon_ns):
    """Two writers, a reader and upkeep in four threads: no row lost, none doubled, every look whole."""
    commits, rows = 40, 5
    done = threading.Event()
    policy = MaintenancePolicy(
        compaction=CompactionPolicy(fan_in=2), checkpoint_commits=3, log_versions=20, log_retention_ns=0
    )

    def write(writer, first):
        table = lake.table("trades")
        for i in range(commits):
            batch = trades(first + i * rows, rows, vendor=writer)
            table.append(batch, writer=writer, position=(i + 1) * rows, covers={"s": i})

    def keep():
        reports = []
        while not done.is_set():
            reports.append(maintain(lake, now_ns=soon_ns, policy=policy, tables=["trades"]))
        return reports

    def read():
        looks = 0
        while not done.is_set():
            seen = lake.read("trades", columns=["seq"], vendor="a")["seq"].to_pylist()
            assert sorted(seen) == list(range(len(seen)))
            assert len(seen) % rows == 0
            looks += 1
        return looks

    with ThreadPoolExecutor(4) as pool:
        keeper, reader = pool.submit(keep), pool.submit(read)
        writers = [pool.submit(write, "a", 0), pool.submit(write, "b", 10_000)]
        try:
            for writer in writers:
                writer.result(timeout=60)
        finally:
            done.set()
        reports = keeper.result(timeout=60)
        assert reader.result(timeout=60) > 0
    assert [f for r in reports for f in r.failures] == []
    assert sum(r.files_written for r in reports) > 0
    expected = [*range(commits * rows), *range(10_000, 10_000 + commits * rows)]
    assert sorted(lake.read("trades")["seq"].to_pylist()) == expected


def test_a_week_of_commits_leaves_a_small_lake(lake, trades, reopened):
    """Files, log and what opening has to read stay bounded by the settings, not by how long it ran."""
    days, per_day = 7, 24
    policy = MaintenancePolicy(compaction=CompactionPolicy(fan_in=8), checkpoint_commits=10)
    table = lake.table("trades")
    base_ns = FAR_NS - FAR_NS % DAY_NS
    position, peak_files, peak_log = 0, 0, 0
    folder = lake.folder("trades")
    for day in range(days):
        for i in range(per_day):
            rows = trades(position, 3, start_ns=base_ns + day * DAY_NS, step_ns=1)
            position += 3
            table.append(rows, writer="w", position=position, covers={"s": position})
            if i % 8 == 7:
                now_ns = base_ns + day * DAY_NS + i * DAY_NS // per_day
                assert maintain(lake, now_ns=now_ns, policy=policy, tables=["trades"]).failures == []
                peak_files = max(peak_files, len(folder.data_files()))
                peak_log = max(peak_log, len(list(folder.log.path.iterdir())))
    end_ns = base_ns + (days + 1) * DAY_NS
    for hours in (0, 2):
        maintain(lake, now_ns=end_ns + hours * HOUR_NS, policy=policy, tables=["trades"])
    assert peak_log < 40
    assert peak_files < 40
    assert len(folder.data_files()) == lake.counts()["trades"].files <= 2 * days
    again = reopened(lake)
    assert again.table("trades").position("w") == position
    assert sorted(again.read("trades")["seq"].to_pylist()) == list(range(position))


def test_every_table_is_kept_up(lake):
    """A run over an empty lake touches nothing and fails nowhere; an unknown table is refused."""
    assert maintain(lake, now_ns=FAR_NS).failures == []
    assert set(lake.counts()) == {name for name, spec in TABLES.items() if spec.from_start}
    with pytest.raises(ConfigurationError):
        maintain(lake, now_ns=FAR_NS, tables=["nonsense"])
