"""The service as its users run it: a process of its own, on a free loopback port."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import httpx

_AS_INSTALLED = str(Path(__file__).parent / "as_installed")
"""Has nothing but a pandas that cannot be imported: Arrow looks for it, and most services run without."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(claim: Callable[[], Any], deadline_s: float, what: str) -> Any:
    """Wait until `claim` gives something true and return it; fail after the deadline."""
    until = time.monotonic() + deadline_s
    while True:
        found = claim()
        if found:
            return found
        if time.monotonic() >= until:
            raise AssertionError(f"not within {deadline_s} s: {what}")
        time.sleep(0.02)


class RunningService:
    """Starts the launcher and stops it again.

    Args:
        data_dir: Its data.
        settings: Further settings by their names without ``ORCH_``.
    """

    def __init__(self, data_dir: Path, **settings: Any) -> None:
        self.data_dir = data_dir
        self.port = int(settings.pop("HEALTH_PORT", 0)) or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        given = {
            "DATA_DIR": data_dir,
            "HEALTH_PORT": self.port,
            "LOG_FORMAT": "text",
            "AUDIT_LOG_PATH": data_dir / "audit.jsonl",
            "WS_INTERVAL_SEC": 0.2,
            **settings,
        }
        self.env = {k: v for k, v in os.environ.items() if not k.startswith("ORCH_")}
        self.env |= {f"ORCH_{name}": str(value) for name, value in given.items()}
        self.env["PYTHONPATH"] = os.pathsep.join(filter(None, [_AS_INSTALLED, os.environ.get("PYTHONPATH")]))
        # One for all that is asked: every new one reads the machine's certificates, which takes as long as a poll.
        self.client = httpx.Client(trust_env=False, verify=False, limits=httpx.Limits(max_keepalive_connections=0))
        self.started = time.monotonic()
        data_dir.mkdir(parents=True, exist_ok=True)
        self.stderr = data_dir.parent / f"{data_dir.name}.stderr"
        with self.stderr.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "market_data_orchestrator.launcher"],
                env=self.env,
                cwd=data_dir,
                stdout=errors,
                stderr=errors,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        self.client.close()

    def get(self, path: str, timeout_s: float = 5.0) -> httpx.Response:
        return self.client.get(f"{self.url}{path}", timeout=timeout_s)

    def answers(self) -> bool:
        assert self.process.poll() is None, self.output()
        try:
            self.get("/livez", timeout_s=1.0)
        except httpx.HTTPError:
            return False
        return True

    def wait_healthy(self, deadline_s: float = 20.0) -> dict[str, Any]:
        eventually(self.answers, deadline_s, "the service answers")
        eventually(lambda: self.get("/health").json()["state"] == "healthy", deadline_s, "the service is healthy")
        return dict(self.get("/status").json())

    def stop(self, number: int = signal.SIGTERM, deadline_s: float = 20.0) -> int:
        self.process.send_signal(number)
        return self.process.wait(deadline_s)

    def output(self) -> str:
        return self.stderr.read_text()
