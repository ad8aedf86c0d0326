"""A small federation on loopback ports, and peers that misbehave."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import subprocess
import time
from contextlib import asynccontextmanager, suppress

import httpx
import uvicorn
from fastapi import APIRouter, Request
from prometheus_client import CollectorRegistry, Counter

from market_data_core.telemetry import HealthStatus
from market_data_core.web import create_service_app, probe_routes, request_id
from market_data_core.web.auth import ConfiguredKey, Principal, Role, guarded_route, require
from market_data_orchestrator.federation import (
    FederatedCaller,
    Federation,
    PeerClient,
    StaticDirectory,
    ThisNode,
    federation_routers,
    parse_peers,
    requests_counter,
)

DEADLINE_S = 10.0
# Reading the authorities once is enough: no peer here speaks TLS.
TLS = ssl.create_default_context()
TOKEN = "a-service-token-of-peers"
ALICE = Principal(name="alice", role=Role.ADMIN)


async def until(claim, what):
    """Wait until a claim holds."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not claim():
        assert time.monotonic() < deadline_s, what
        await asyncio.sleep(0.005)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@asynccontextmanager
async def served(app, port=0):
    """Serve an app on a loopback port; gives the port."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        config = uvicorn.Config(app, http="httptools", lifespan="on", log_config=None, access_log=False)
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]), name="served")
        await until(lambda: server.started or task.done(), "uvicorn did not start")
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await asyncio.wait_for(task, DEADLINE_S)


@asynccontextmanager
async def raw_server(answer):
    """A server that reads a request and answers with these bytes, or never where they are None; gives the port."""
    heard = []

    async def serve(reader, writer):
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        if answer is None:
            await reader.read()
        else:
            writer.write(answer)
            await writer.drain()

    async with streaming(serve) as port:
        yield port, heard


@asynccontextmanager
async def streaming(serve):
    """A server whose connections are served by a function of reader and writer, and closed; gives the port."""
    serving = set()

    async def connected(reader, writer):
        serving.add(asyncio.current_task())
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            try:
                await serve(reader, writer)
            finally:
                writer.close()
                await writer.wait_closed()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.sleep(0)
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


class Node:
    """An orchestrator's health, some routes to forward to, and its own federation."""

    def __init__(self, name, *, peers=(), token=TOKEN, role=Role.OPERATOR, state="healthy", version="1.2.3"):
        self.name = name
        self.state = state
        self.version = version
        self.service = "orchestrator"
        self.port = 0
        self.healths = 0
        self.heard = []
        self.records = []
        self.registry = CollectorRegistry()
        self.client = PeerClient(verify=TLS)
        configured = parse_peers(peers, node_id=name)
        self.requests = requests_counter(self.registry, configured)
        self.federation = Federation(
            configured, node_id=name, token=token, client=self.client, requests=self.requests, recorder=self.record
        )
        self.directory = StaticDirectory(
            configured, node=ThisNode(node_id=name), client=self.client, requests=self.requests, fresh_s=0.0
        )
        self.keys = [ConfiguredKey("the admin's own key"), ConfiguredKey("a viewer's key", role=Role.VIEWER)]
        self.app = self._app([*self.keys, FederatedCaller(TOKEN, role=role)])

    async def record(self, record):
        self.records.append(record)

    def outcomes(self):
        return [(r.target, r.outcome) for r in self.records]

    def count(self, **labels):
        return self.registry.get_sample_value("orchestrator_federation_requests_total", labels)

    @property
    def peer(self):
        return f"{self.name}=http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def running(self, port=0):
        async with served(self.app, port) as self.port:
            try:
                yield self
            finally:
                await self.client.aclose()

    def ask(self, key="the admin's own key", **headers):
        return httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self.port}", headers={"X-API-Key": key, **headers}, trust_env=False
        )

    def _app(self, authenticators):
        failures = Counter("orchestrator_auth_failures", "t", ["reason"], registry=self.registry)
        gate = require(Role.OPERATOR, authenticators=authenticators, failures=failures)
        operator = APIRouter(route_class=guarded_route(gate))
        admin = APIRouter(route_class=guarded_route(require(Role.ADMIN, authenticators=authenticators)))

        async def answer(request: Request):
            body = await request.body()
            caller = request.state.principal
            self.heard.append((request.method, request.url.path, str(request.url.query), body, request_id()))
            return {"node": self.name, "actor": caller.name, "role": caller.role}

        operator.add_api_route("/control/status", answer, methods=["GET"])
        operator.add_api_route("/control/pause", answer, methods=["POST"])
        admin.add_api_route("/control/reload", answer, methods=["POST"])
        app = create_service_app(
            title=self.name, version="1", registry=self.registry, routes=probe_routes(self._health, list)
        )
        routers = federation_routers(self.federation, self.directory, authenticators, failures=failures)
        for router in [operator, admin, *routers]:
            app.include_router(router)
        return app

    def _health(self):
        self.healths += 1
        return HealthStatus(service=self.service, state=self.state, version=self.version, ts=time.time())


class RedisServer:
    """A Redis of the test's own; it keeps nothing when it dies."""

    def __init__(self, executable, folder):
        options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder)]
        self.port = free_port()
        self.process = subprocess.Popen(
            [executable, *options, "--port", str(self.port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline_s = time.monotonic() + DEADLINE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                assert time.monotonic() < deadline_s, "redis-server did not start"
                assert self.process.poll() is None, "redis-server ended"
                os.sched_yield()
            else:
                return

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}/0"

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
