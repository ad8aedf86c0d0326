"""The small state among several processes, crashes, damage and full disks."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from importlib import resources

import pytest

from market_data_core.errors import ConfigurationError, TemporaryUnavailable
from market_data_store.state import State
from market_data_store.state.database import read_migrations, read_queries

spawn = multiprocessing.get_context("spawn")


def _claim_all(path, owner, results) -> None:
    state = State(path)
    claimed = []
    while (job := state.claim_job(owner, 10)) is not None:
        claimed.append(job.id)
    results.put(claimed)
    state.close()


def test_state_processes_never_claim_the_same_job(tmp_path):
    """Several processes that claim at once share the jobs out, each to one."""
    path = tmp_path / "state.db"
    state = State(path)
    ids = [state.enqueue_job("k", {}, n).id for n in range(60)]
    results = spawn.Queue()
    workers = [spawn.Process(target=_claim_all, args=(path, f"w{n}", results)) for n in range(3)]
    for worker in workers:
        worker.start()
    claimed = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert sorted(i for ids_of_one in claimed for i in ids_of_one) == ids
    state.close()


def test_state_threads_share_one_object(tmp_path):
    """One object serves many threads; no write is lost."""
    state = State(tmp_path / "state.db")
    threads = [
        threading.Thread(target=lambda n=n: [state.enqueue_job("k", {}, 1, f"{n}-{i}") for i in range(10)])
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(state.list_jobs(limit=1000)) == 40
    state.close()


def test_state_survives_a_kill_in_mid_write(tmp_path):
    """After kill -9 all that was returned from is there, and the file is whole."""
    path = tmp_path / "state.db"
    code = (
        "import sys; from pathlib import Path; from market_data_store.state import State\n"
        "s = State(Path(sys.argv[1])); n = 0\n"
        "while True:\n"
        "    n += 1; s.register_ingest(f'f{n}', 'p', n, 0, n); print(n, flush=True)\n"
    )
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        with writer.stdout:
            while int(last := writer.stdout.readline()) < 40:
                pass
            writer.send_signal(signal.SIGKILL)
            said = [int(last), *(int(line) for line in writer.stdout if line.endswith("\n"))]
        writer.wait()
        state = State(path)
        assert state.repairs == ()
        assert all(state.ingest_done(f"f{n}") for n in range(1, said[-1] + 1))
        state.close()


def _filled(path, size_bytes=200) -> None:
    state = State(path)
    for n in range(300):
        state.set_flag(f"flag{n}", "x" * size_bytes)
    state.close()


def _garbage(path) -> None:
    path.write_bytes(b"this is no database at all" * 100)


def _cut(path) -> None:
    _filled(path)
    os.truncate(path, path.stat().st_size // 2)


def _torn(path) -> None:
    _filled(path)
    with path.open("r+b") as file:
        for page in range(3, 12):
            file.seek(page * 4096)
            file.write(b"\xff" * 4096)


def _without_a_table(path) -> None:
    _filled(path)
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE jobs")
    connection.commit()
    connection.close()


@pytest.mark.parametrize("damage", [_garbage, _cut, _torn, _without_a_table])
def test_state_damaged_file_is_moved_aside(tmp_path, damage):
    """A file that cannot be used is kept beside a new one, said so, and start goes on."""
    path = tmp_path / "state.db"
    damage(path)
    before = path.read_bytes()
    state = State(path)
    assert [r.moved_to for r in state.repairs] == [f"{path}.corrupt-1"]
    assert state.repairs[0].reason
    assert (tmp_path / "state.db.corrupt-1").read_bytes() == before
    state.set_flag("x", 1)
    assert state.get_flag("x") == 1
    state.close()


def test_state_damage_while_open(tmp_path):
    """Damage that shows itself later is repaired by the call after the one that met it."""
    path = tmp_path / "state.db"
    _filled(path, size_bytes=20_000)  # more than SQLite keeps in memory
    state = State(path)
    with path.open("r+b") as file:
        file.write(b"\xff" * path.stat().st_size)
    with pytest.raises(TemporaryUnavailable, match=str(path)):
        state.list_flags()
    state.set_flag("x", 1)
    assert state.get_flag("x") == 1
    assert len(state.repairs) == 1
    state.close()


def test_state_file_replaced_by_another_process(tmp_path):
    """When another process has moved the file aside, the next call uses the new one."""
    path = tmp_path / "state.db"
    first = State(path)
    first.set_flag("x", 1)
    for name in ("state.db", "state.db-wal", "state.db-shm"):
        (tmp_path / name).rename(tmp_path / f"old-{name}")
    second = State(path)
    second.set_flag("x", 2)
    assert first.get_flag("x") == 2
    first.close()
    second.close()


def test_state_of_a_later_version_is_left_alone(tmp_path):
    """A file that a later platform made is neither used nor moved."""
    path = tmp_path / "state.db"
    State(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ConfigurationError, match="99"):
        State(path)
    assert path.exists()


def test_state_where_no_folder_can_be(tmp_path):
    """A place that cannot hold a file is named."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(TemporaryUnavailable, match="file"):
        State(tmp_path / "file" / "state.db")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 512 KiB of its own, and a way to mount it again with other options."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", folder], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a small disk here: {mounted.stderr.decode().strip()}")
    yield folder, lambda option: subprocess.run(["mount", "-o", f"remount,{option}", folder], check=True)
    subprocess.run(["umount", folder], check=True)


def test_state_on_a_full_disk(small_disk):
    """A full disk makes writes wait; reading goes on, and so does writing once there is room."""
    folder, _ = small_disk
    state = State(folder / "state.db")
    state.set_flag("small", 1)
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096):
            pass
    with pytest.raises(TemporaryUnavailable, match="full"):
        state.set_flag("large", "x" * 100_000)
    assert state.get_flag("small") == 1
    filler.unlink()
    state.set_flag("large", "x" * 100_000)
    assert state.repairs == ()
    state.close()


def test_state_on_a_read_only_disk(small_disk):
    """A disk that turned read-only refuses writes for a while; nothing is taken for damage."""
    folder, remount = small_disk
    state = State(folder / "state.db")
    state.set_flag("x", 1)
    state.close()
    remount("ro")
    for call in (lambda: state.set_flag("x", 2), lambda: State(folder / "state.db")):
        with pytest.raises(TemporaryUnavailable, match=str(folder)):
            call()
    remount("rw")
    state.set_flag("x", 3)
    assert (state.get_flag("x"), state.repairs) == (3, ())
    state.close()


def _schema(scripts) -> list[tuple]:
    connection = sqlite3.connect(":memory:")
    for script in scripts:
        connection.executescript(script)
    rows = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name").fetchall()
    connection.close()
    return rows


def test_state_migrations_lead_to_the_schema():
    """An empty database and all migrations make what schema.sql says."""
    schema = resources.files("market_data_store.state").joinpath("schema.sql").read_text(encoding="utf-8")
    assert _schema(read_migrations()) == _schema([schema])


@pytest.mark.parametrize("name", sorted(read_queries()))
def test_state_queries_fit_the_schema(name):
    """Every named statement can be prepared on the schema."""
    connection = sqlite3.connect(":memory:")
    for script in read_migrations():
        connection.executescript(script)
    sql = read_queries()[name]
    values = dict.fromkeys(re.findall(r":(\w+)", sql))
    connection.execute(f"EXPLAIN {sql}", values)
    connection.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_state_after_a_fork(tmp_path):
    """A forked child gets a connection of its own; both go on."""
    state = State(tmp_path / "state.db")
    state.set_flag("parent", 1)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            state.set_flag("child", 2)
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert (state.get_flag("parent"), state.get_flag("child")) == (1, 2)
    state.close()
