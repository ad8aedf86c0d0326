"""What the pages show is run, block by block and in their order, as a reader would."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import httpx
import pytest
from docs_pages import PAGES, ROOT, blocks

from support.service import RunningService, eventually

# The page on pipelines has a test of its own, block by block; layouts in pieces are shown on that on replay.
RUN = [page for page in PAGES if page.name not in ("pipelines-in-python.md", "query.md")]
LANGUAGES = {"", "sh", "yaml", "python", "toml"}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """A service over a folder as a checkout has it, with recordings beside it."""
    folder = tmp_path_factory.mktemp("pages")
    shutil.copytree(ROOT / "configs", folder / "configs")
    for place, symbols in (("recordings", ["recordings"]), ("archive", ["aapl", "msft"])):
        for symbol in symbols:
            _recorded(folder / place / ("" if symbol == place else symbol) / "20240102_trade.zip")
    with RunningService(folder / "data", CONFIG=folder / "configs" / "platform.yaml", WORKERS="thread") as running:
        running.wait_healthy(40)
        yield running


def _recorded(path: Path) -> None:
    path.parent.mkdir(parents=True)
    rows = [f"{34_200_000 + 100 * n},1{n:02}0000,100,Q,0,0" for n in range(50)]
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr(f"20240102_{path.parent.name}_Trade_Tick.csv", "\n".join(rows))


@pytest.fixture
def shell(service):
    """Runs a block of shell as it stands; gives what it printed."""
    bin_dir = service.data_dir.parent / "bin"
    bin_dir.mkdir(exist_ok=True)
    for name, package in (("mdo", "market_data_orchestrator"), ("mds", "mds_client")):
        command = bin_dir / name
        command.write_text(f"#!{sys.executable}\nfrom {package}.cli.main import main\nmain()\n")
        command.chmod(0o755)
    key = (service.data_dir / "first-key").read_text().strip()
    said = {"PATH": f"{bin_dir}:{os.environ['PATH']}", "BASE": service.url, "ORCH_URL": service.url, "API_KEY": key}
    said |= {"MDS_DSN": str(service.data_dir / "lake"), "MDS_TENANT_ID": "default"}

    def run(text: str) -> str:
        done = subprocess.run(
            ["sh", "-eu"],
            input=text.replace("curl -sS", "curl -sS --fail-with-body --noproxy '*'"),
            cwd=service.data_dir.parent,
            env={**service.env, **said},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run


@pytest.mark.timeout(300)  # a page may start dozens of programs, one after the other
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_a_page_runs_as_it_stands(page, service, shell, tmp_path, monkeypatch):
    """Files are written where the page says, commands end with 0 beside a running service, Python raises nothing."""
    monkeypatch.chdir(tmp_path)
    platform = service.data_dir.parent / "configs" / "platform.yaml"
    shutil.copyfile(ROOT / "configs" / "platform.yaml", platform)
    for block in blocks(page):
        if block.file:
            (service.data_dir.parent / block.file).write_text(block.text)
        elif block.language == "sh":
            _until_stored(service)
            shell(block.text)
        elif block.language == "python":
            exec(compile(block.text, block.name, "exec"), {"__name__": "page"})


def _until_stored(service) -> None:
    def stored():
        answer = httpx.get(f"{service.url}/status", trust_env=False).json()
        # What the pages look at is there once the first commits are.
        return answer["health"]["state"] == "healthy" and any(c["commit_age_s"] for c in answer["consumers"])

    eventually(stored, 30, "everything is healthy and something is stored")


def test_ingestion_answers_as_the_page_says(shell):
    """The first call of the page gives the fields of the contract."""
    answer = json.loads(shell('curl -sS -H "X-API-Key: $API_KEY" "$BASE/runtime/ingest/status"'))
    assert {"running", "active_provider", "dry_run", "policy", "providers"} <= set(answer)


def test_no_command_of_the_readme_escapes():
    """Whatever calls mdo, mds or curl, or is Python, is in a block that is run; others hold make and pictures."""
    for block in blocks(ROOT / "README.md"):
        assert block.language in LANGUAGES
        if block.language == "":
            assert not re.search(r"^(mdo|mds|curl|import|from) ", block.text, re.MULTILINE), block.name
