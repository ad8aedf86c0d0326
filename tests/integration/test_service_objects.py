"""The service with an object store for its lake: by one setting, and whole through its own death."""

from __future__ import annotations

import json
import signal

import pytest

from market_data_orchestrator.cli.main import run
from market_data_store.lake import Lake
from support.s3_server import shared_s3
from support.service import RunningService, eventually


def test_one_setting_keeps_the_lake_in_an_object_store(tmp_path, monkeypatch, capsys):
    """Rows go there, SQL and the audit find them; killed and started again it has everything once."""
    address = shared_s3().place()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ORCH_STORE_URL", address)
    monkeypatch.setenv("ORCH_DATA_DIR", str(tmp_path / "data"))

    def said(*arguments):
        capsys.readouterr()
        assert run([str(a) for a in arguments]) == 0
        return json.loads(capsys.readouterr().out)

    def stored():
        return Lake(address, "default").read("trades", columns=["seq"]).num_rows

    def started():
        return RunningService(tmp_path / "data", STORE_URL=address, PROVIDER_RATE=500, BARS="1s")

    with started() as service:
        assert service.wait_healthy(40)["store"]["url"] == address
        eventually(lambda: stored() > 100, 30, "trades are stored")
        service.process.send_signal(signal.SIGKILL)
        service.process.wait(10)
    before = stored()
    with started() as service:
        service.wait_healthy(40)
        eventually(lambda: stored() > before + 100, 30, "more trades are stored")
        assert service.stop() == 0, service.output()
    sql = "select count(*) as n, count(distinct seq) as distinct from trades"
    assert said("query", sql, "--json")["rows"] == [{"n": stored(), "distinct": stored()}]
    assert said("audit", "ledger", "--json")["agrees"]
    assert not (tmp_path / "data" / "lake").exists()


@pytest.mark.parametrize("address", ["s3://", "s3://key:secret@bucket/lake"])
def test_a_wrong_address_is_told_before_anything_starts(tmp_path, address):
    """And is not repeated."""
    with RunningService(tmp_path / "data", STORE_URL=address) as service:
        assert service.process.wait(20) != 0
    assert "without credentials" in service.output()
    assert "secret" not in service.output()
