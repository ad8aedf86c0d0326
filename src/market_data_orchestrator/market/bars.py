"""Bars for live clients, made in a process that runs while somebody listens to bars."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import orjson

from market_data_core import priority
from market_data_core.schemas import Kind
from market_data_orchestrator.composition import log_folder
from market_data_orchestrator.service import Service
from market_data_pipeline.dag import GraphSpec

LOG = logging.getLogger(__name__)

Publish = Callable[[Kind, Iterable[Mapping[str, Any]]], None]

_OF_TIME: Final = ("bars", "resample_ohlc")
_LINE_BYTES: Final = 64 << 20
_LOOK_S: Final = 0.1
# Kept for a while after the last listener: who reloads a page should not wait for a process to start.
_LINGER_S: Final = 30.0
_RETRY_S: Final = 1.0
_LONGEST_RETRY_S: Final = 60.0
_STEADY_S: Final = 30.0
# Behind the service itself and before queries.
_NICE: Final = 10


def bar_nodes(graph: GraphSpec) -> list[str]:
    """Return the names of a graph's operators that make bars of time.

    Others are left out: where a bar of volume ends depends on all that was before, which a reader of the log's end
    does not know.
    """
    return [node.name for node in graph.of("operator") if node.type in _OF_TIME]


class MadeBars:
    """Starts and ends the process that makes bars, and publishes what it makes.

    Args:
        service: Whose graph and log.
        publish: Given the bars.
    """

    def __init__(self, service: Service, publish: Publish) -> None:
        self._service = service
        self._publish = publish
        self.wanted = False
        """Whether somebody listens to bars."""

    async def run(self) -> None:
        """Run the process while it is wanted, for ever; after a reload, one of the new graph."""
        retry_s = _RETRY_S
        while True:
            graph = self._service.config.graph
            nodes = bar_nodes(graph) if self.wanted else []
            if not nodes:
                await asyncio.sleep(_LOOK_S)
                continue
            begun_s = time.monotonic()
            if await self._follow(graph, nodes):
                retry_s = _RETRY_S
                continue
            steady = time.monotonic() - begun_s >= _STEADY_S
            retry_s = _RETRY_S if steady else min(retry_s * 2, _LONGEST_RETRY_S)
            LOG.warning("the process that makes bars for clients ended; it is started again in %g s", retry_s)
            await asyncio.sleep(retry_s)

    async def _follow(self, graph: GraphSpec, nodes: list[str]) -> bool:
        # Whether it went on until it was no longer wanted.
        folder = log_folder(self._service.settings)
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "market_data_orchestrator.market.bars_child"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=_LINE_BYTES,
                start_new_session=True,
            )
        except OSError as exc:
            LOG.warning("the process that makes bars for clients cannot be started: %s", exc)
            return False
        priority.lower(_NICE, process.pid)
        reading = asyncio.create_task(self._read(process), name="market-bars-read")
        try:
            asked = {"log_folder": str(folder.absolute()), "graph": graph.to_json(reveal=True), "nodes": nodes}
            if process.stdin is not None:
                with contextlib.suppress(ConnectionError):  # it died; that is seen below
                    process.stdin.write(json.dumps(asked).encode() + b"\n")
                    await process.stdin.drain()
            return await self._until_unwanted(graph, reading)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _until_unwanted(self, graph: GraphSpec, reading: asyncio.Task[None]) -> bool:
        quiet_s = 0.0
        while quiet_s < _LINGER_S and self._service.config.graph is graph:
            await asyncio.wait({reading}, timeout=_LOOK_S)
            if reading.done():
                return False
            quiet_s = 0.0 if self.wanted else quiet_s + _LOOK_S
        return True

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        if process.stdout is None:
            return
        while line := await process.stdout.readline():
            self._publish(Kind.BARS, orjson.loads(line))
