"""What the system itself forbids a query's process, were the check of its text to fail."""

from __future__ import annotations

import subprocess
import sys

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from market_data_store.query.confine import landlock_version

# The engine without the parser in front of it, confined as the child confines itself.
UNCHECKED = """
import sys
from pathlib import Path
import pyarrow as pa
import pyarrow.compute
from deltalake import QueryBuilder, DeltaTable
from market_data_store.query import confine

confine.limit_resources(memory_bytes=2 << 30, cpu_s=20)
folder = Path(sys.argv[1])
if sys.argv[2] == "yes":
    confine.read_only_below(folder)
engine = QueryBuilder().register("trades", DeltaTable(folder / "trades"))
try:
    for sql in sys.argv[3:]:
        print(pa.RecordBatchReader.from_stream(engine.execute(sql)).read_all().to_pylist())
except Exception as exc:
    sys.exit(f"refused: {exc}")
"""

needs_landlock = pytest.mark.skipif(landlock_version() == 0, reason="this kernel has no Landlock")


@pytest.fixture
def two_tenants(tmp_path):
    """A lake with a table `trades` of tenant ``a`` and one of tenant ``b``."""
    for tenant in ("a", "b"):
        write_deltalake(tmp_path / tenant / "trades", pa.table({"tenant": [tenant]}))
    return tmp_path


def unchecked(lake, *sql: str, landlock: bool = True) -> subprocess.CompletedProcess:
    """Run SQL past the parser."""
    command = [sys.executable, "-c", UNCHECKED, str(lake / "a"), "yes" if landlock else "no", *sql]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@needs_landlock
def test_confine_leaves_the_tenants_own_tables(two_tenants):
    """A confined process reads the folder that it was given."""
    assert unchecked(two_tenants, "select * from trades").stdout == "[{'tenant': 'a'}]\n"


@needs_landlock
@pytest.mark.parametrize("target", ["{lake}/b/trades/", "{lake}/a/../b/trades/", "/etc/passwd", "/proc/self/environ"])
def test_confine_refuses_reading_elsewhere(two_tenants, target):
    """An external table over another tenant's files, or the machine's, cannot be read."""
    location = target.format(lake=two_tenants)
    format_ = "parquet" if location.endswith("/") else "csv"
    ended = unchecked(
        two_tenants, f"create external table x stored as {format_} location '{location}'", "select * from x"
    )
    assert ended.returncode == 1
    assert "'b'" not in ended.stdout
    assert "Permission denied" in ended.stderr


@pytest.mark.parametrize(
    ("where", "landlock"),
    [
        ("a/trades/x.csv", False),
        pytest.param("a/x.csv", True, marks=needs_landlock),
        pytest.param("x.csv", True, marks=needs_landlock),
    ],
)
def test_confine_refuses_writing(two_tenants, where, landlock):
    """COPY TO writes nothing, with Landlock or without."""
    target = two_tenants / where
    ended = unchecked(two_tenants, f"copy (select 1 as x) to '{target}'", landlock=landlock)
    assert ended.returncode == 1
    assert ended.stderr.startswith("refused: ")
    assert not target.exists() or target.stat().st_size == 0


@needs_landlock
def test_confine_refuses_connections():
    """A confined process opens no TCP connection."""
    code = (
        "import socket, sys; from pathlib import Path; from market_data_store.query import confine\n"
        "server = socket.create_server(('127.0.0.1', 0)); confine.read_only_below(Path('/usr'))\n"
        "try:\n    socket.create_connection(server.getsockname())\n"
        "except PermissionError:\n    sys.exit(7)\n"
    )
    if landlock_version() < 4:
        pytest.skip("this kernel's Landlock knows no network")
    assert subprocess.run([sys.executable, "-c", code]).returncode == 7
