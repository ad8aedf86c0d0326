"""``mdo doctor``: is this machine fit, and is what is here whole?"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import httpx

from market_data_core.addresses import is_postgres, without_password
from market_data_core.errors import MarketDataError
from market_data_orchestrator.cli.options import AsJson, DataDir, Tenant
from market_data_orchestrator.cli.output import FAILURE, print_json, print_table, size
from market_data_orchestrator.cli.status import service_url
from market_data_orchestrator.composition import load, log_folder
from market_data_orchestrator.settings import OrchestratorSettings
from market_data_pipeline.log.segments import Damage, list_segments, scan
from market_data_store import open_backend
from market_data_store.lake import Lake
from market_data_store.query.confine import landlock_version

Finding = tuple[str, str, str]
_OK, _WARN, _BAD = "ok", "warning", "failed"


def doctor(as_json: AsJson = False, data_dir: DataDir = None, tenant: Tenant = None) -> int:
    """Check settings, disk, log, store, state and port, and say what to do. The exit code is 1 if anything failed.

    Changes nothing; safe beside a running service.
    """
    settings, config = load(data_dir=data_dir, tenant_id=tenant)
    findings: list[Finding] = [("configuration", _OK, f"{len(config.graph.of('sink'))} sinks, from {config.source}")]
    for name, check in _CHECKS:
        try:
            findings.extend((name, state, detail) for state, detail in check(settings))
        except (MarketDataError, OSError) as exc:
            findings.append((name, _BAD, str(exc)))
    if as_json:
        print_json([{"check": n, "state": s, "detail": d} for n, s, d in findings])
    else:
        print_table("", ["check", "state", "detail"], findings)
    return FAILURE if any(state == _BAD for _, state, _ in findings) else 0


Outcome = Iterator[tuple[str, str]]


def _python(settings: OrchestratorSettings) -> Outcome:
    del settings
    yield (
        _OK,
        f"Python {platform.python_version()} on {platform.system()} {platform.release()}, {os.cpu_count()} cores",
    )
    if sys.platform != "linux":
        yield (_WARN, "only Linux is tested")
    version = landlock_version()
    yield (
        (_OK, f"queries are confined by Landlock {version}")
        if version
        else (
            _WARN,
            "this kernel has no Landlock: queries are guarded by their parser and limits alone",
        )
    )


def _settings(settings: OrchestratorSettings) -> Outcome:
    yield (_OK, f"provider {settings.provider}, tenant {settings.tenant_id}, data in {settings.data_path}")


def _disk(settings: OrchestratorSettings) -> Outcome:
    folder = settings.data_path
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(existing).free
    wanted = settings.log_reserve_bytes * 4
    yield (_OK if free > wanted else _WARN, f"{size(free)} free at {existing}")
    with tempfile.TemporaryFile(dir=existing) as file:
        spent = []
        for _ in range(20):
            file.write(b"x" * 4096)
            file.flush()
            started = time.perf_counter()
            os.fsync(file.fileno())
            spent.append(time.perf_counter() - started)
    middle_ms = sorted(spent)[len(spent) // 2] * 1000
    yield (_OK if middle_ms < 20 else _WARN, f"a sync takes {middle_ms:.2f} ms")


def _log(settings: OrchestratorSettings) -> Outcome:
    folder = log_folder(settings)
    segments = list_segments(folder) if folder.is_dir() else []
    if not segments:
        yield (_OK, f"no log at {folder} yet")
        return
    total = sum(path.stat().st_size for _, path in segments)
    yield (_OK, f"{len(segments)} segments, {size(total)}, from seq {segments[0][0]:,}")
    damages: list[Damage] = []
    for _, path in segments:
        try:
            damages += scan(path, check=True).damages
        except FileNotFoundError:
            continue  # trimmed by a running service meanwhile
    for damage in damages:
        yield (_BAD, str(damage))
    if not damages:
        yield (_OK, "every record matches its checksum")


def _store(settings: OrchestratorSettings) -> Outcome:
    if is_postgres(settings.store_root):
        yield from _server(settings)
        return
    lake = Lake(settings.store_root, settings.tenant_id)
    if not lake.schema_version():
        yield (_OK, f"no store at {settings.store_root} yet")
        return
    for name, counts in lake.counts().items():
        if counts.rows:
            yield (_OK, f"{name}: {counts.rows:,} rows in {counts.files:,} files, {size(counts.size_bytes)}")


def _server(settings: OrchestratorSettings) -> Outcome:
    from market_data_store.postgres.queries import read_migrations  # noqa: PLC0415  for those who have a server

    shown, latest = without_password(settings.store_root), read_migrations()[-1].version
    with contextlib.closing(open_backend(settings.store_root, settings.tenant_id, pool_max=1, timeout_s=5.0)) as store:
        said = store.health()
        found = said["schema_version"]
        yield (_OK, f"PostgreSQL {said['version']} answers at {shown} in {said['latency_ms']:.1f} ms")
        if found != latest:
            yield (
                _WARN,
                f"its schema is version {found}; this platform's is {latest}: a start brings it there, if it may",
            )
            return
        yield (_OK, f"its schema is version {found}")
        for name, counts in store.describe()["tables"].items():
            if counts["rows"]:
                yield (_OK, f"{name}: {counts['rows']:,} rows were added")


def _state(settings: OrchestratorSettings) -> Outcome:
    import sqlite3  # noqa: PLC0415  only here

    path = settings.data_path / "state.db"
    if not path.exists():
        yield (_OK, "no state yet")
        return
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        (said,) = connection.execute("pragma quick_check").fetchone()
    except sqlite3.DatabaseError as exc:
        said = str(exc)
    finally:
        connection.close()
    yield (
        (_OK, "state.db is whole")
        if said == "ok"
        else (_BAD, f"state.db is damaged: {said}; it is replaced at the next start")
    )


def _service(settings: OrchestratorSettings) -> Outcome:
    url = service_url(None)
    try:
        answer = httpx.get(f"{url}/health", timeout=2.0, trust_env=False).json()
    except (httpx.HTTPError, ValueError):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((settings.health_host, settings.health_port))
            except OSError as exc:
                yield (_BAD, f"{settings.health_host}:{settings.health_port} cannot be served on: {exc}")
                return
        yield (_OK, f"no service runs; {settings.health_host}:{settings.health_port} is free")
        return
    if not isinstance(answer, dict) or "state" not in answer:
        yield (_BAD, f"something else than this platform answers at {url}: choose another ORCH_HEALTH_PORT")
        return
    yield (_OK if answer["state"] == "healthy" else _WARN, f"a service at {url} says it is {answer['state']}")


_CHECKS: tuple[tuple[str, Callable[[OrchestratorSettings], Outcome]], ...] = (
    ("machine", _python),
    ("settings", _settings),
    ("disk", _disk),
    ("log", _log),
    ("store", _store),
    ("state", _state),
    ("service", _service),
)
