"""The libraries of the service without the service: imported, then each used a little.

``python -m benchmarks.footprint_bare FOLDER`` says so on stdout and waits for a line on stdin after each of the two, so
that whoever started it can look at its memory.
"""

from __future__ import annotations

import socket
import sys
import threading
from http.client import HTTPConnection
from pathlib import Path

import pyarrow as pa
import pyarrow.compute
import pyarrow.dataset
import pyarrow.parquet
import uvicorn
from deltalake import write_deltalake
from fastapi import FastAPI

_APPENDS = 20
_ROWS = 1_000


def main() -> None:
    """Import, wait, answer one request and append to a table, wait."""
    _wait("imported")
    _answer_once()
    rows = pa.table({"number": range(_ROWS), "text": ["x"] * _ROWS})
    for _ in range(_APPENDS):
        write_deltalake(Path(sys.argv[1]), rows, mode="append")
    _wait("used")


def _wait(what: str) -> None:
    print(what, flush=True)
    sys.stdin.readline()


def _answer_once() -> None:
    app = FastAPI()
    app.add_api_route("/health", lambda: {"state": "healthy"})
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    threading.Thread(target=lambda: server.run(sockets=[listener]), daemon=True).start()
    connection = HTTPConnection("127.0.0.1", listener.getsockname()[1], timeout=30.0)
    connection.request("GET", "/health")
    connection.getresponse().read()
    connection.close()


if __name__ == "__main__":
    main()
