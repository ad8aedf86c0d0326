"""An object store for tests: a SeaweedFS server of the test run's own on loopback, spoken to as S3."""

from __future__ import annotations

import atexit
import functools
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
from pyarrow import fs

from support.service import eventually, free_port

_KEY, _SECRET, _BUCKET = "tests", "of-this-run", "lake"
_numbers = itertools.count()


class S3Server:
    """A server whose data lie in a folder of its own below /tmp."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="mds-s3-", dir="/tmp"))
        self.port = free_port()
        self._has_bucket = False
        identity = {"name": "tests", "credentials": [{"accessKey": _KEY, "secretKey": _SECRET}], "actions": ["Admin"]}
        config = self._folder / "s3.json"
        config.write_text(json.dumps({"identities": [identity]}))
        ports = [
            f"-{part}.port{kind}={free_port()}" for part in ("master", "volume", "filer") for kind in ("", ".grpc")
        ]
        self._command = [
            str(Path(sys.executable).with_name("weed")),
            "server",
            f"-dir={self._folder}",
            *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", "-master.telemetry=false"),
            *ports,
            *(f"-s3.port={self.port}", f"-s3.port.grpc={free_port()}", f"-s3.config={config}", "-s3.iam=false"),
            *("-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.max=4", "-master.volumeSizeLimitMB=64"),
            "-volume.preStopSeconds=0",
        ]
        self._output = (self._folder / "output").open("ab")
        self.start()
        atexit.register(self.remove)

    def start(self) -> None:
        """Start it, on the port it had before."""
        self._process = subprocess.Popen(self._command, stdout=self._output, stderr=self._output)
        eventually(self._answers, 60, "the object store answers")

    def _answers(self) -> bool:
        assert self._process.poll() is None, (self._folder / "output").read_text()[-4000:]
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/healthz", trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._process.kill()
        self._process.wait(10)

    def remove(self) -> None:
        """End it and remove its data; harmless a second time."""
        self.kill()
        self._output.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def environment(self) -> dict[str, str]:
        """By what clients find it and are let in."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": _KEY,
            "AWS_SECRET_ACCESS_KEY": _SECRET,
        }

    def place(self) -> str:
        """Return the address of a place where nothing is."""
        if not self._has_bucket:
            eventually(self._make_bucket, 30, "a bucket can be made")
            self._has_bucket = True
        return f"s3://{_BUCKET}/{next(_numbers)}"

    def _make_bucket(self) -> bool:
        client = fs.S3FileSystem(
            access_key=_KEY,
            secret_key=_SECRET,
            region="us-east-1",
            scheme="http",
            endpoint_override=f"127.0.0.1:{self.port}",
            allow_bucket_creation=True,
        )
        try:
            client.create_dir(_BUCKET)
        except OSError:
            return False
        return True


@functools.cache
def shared_s3() -> S3Server:
    """Return the one server that tests share; this process's environment says how to use it."""
    server = S3Server()
    os.environ.update(server.environment)
    return server
