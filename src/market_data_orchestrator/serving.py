"""Serves the platform until a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn

from market_data_core.errors import ConfigurationError
from market_data_core.web.gathering import GatheringProtocol
from market_data_orchestrator.app import create_app
from market_data_orchestrator.config import PlatformConfig
from market_data_orchestrator.container import ServiceContainer
from market_data_orchestrator.settings import OrchestratorSettings
from market_data_pipeline.worker import WorkerConsumers

LOG = logging.getLogger(__name__)
_GOODBYE_S = 2
_CLOSE_S = 3


class _Server(uvicorn.Server):
    # The launcher handles signals itself: intake stops and what was received is stored before the doors close.
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(
    settings: OrchestratorSettings,
    config: PlatformConfig,
    *,
    consumers: WorkerConsumers | None = None,
    started: Callable[[str], None] | None = None,
    first_link: Callable[[str], None] | None = None,
) -> int:
    """Run the service until a signal ends it.

    Args:
        settings: How, as `load_settings` gave them.
        config: What, read with them.
        consumers: A worker for both that was begun before.
        started: Told the cockpit's address as soon as it answers.
        first_link: Told, at the first start of all, a link that signs in once.

    Returns:
        The exit code: 0 after a clean stop, 1 if the service could not start.

    Raises:
        ConfigurationError: The address cannot be served on.
    """
    listener = _listen(settings.health_host, settings.health_port)
    host, port = listener.getsockname()[:2]
    parts = ServiceContainer(settings, config=config, consumers=consumers)
    service, app = parts.service, create_app(parts)
    server = _Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            http=GatheringProtocol,
            ws="websockets-sansio",
            ws_ping_interval=20.0,
            # It would compress every message again for every client.
            ws_per_message_deflate=False,
            timeout_graceful_shutdown=_CLOSE_S,
            server_header=False,
            date_header=False,
            ssl_certfile=settings.tls_cert,
            ssl_keyfile=settings.tls_key,
        )
    )
    loop = asyncio.get_running_loop()
    stopping: set[asyncio.Task[None]] = set()

    async def stop() -> None:
        service.stop()
        await service.ended.wait()
        parts.feed.end()
        # All are told that it ends before the server hangs up; who does not read is not waited for.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(parts.status.ws_none.wait(), _GOODBYE_S)
        server.should_exit = True

    def on_signal() -> None:
        if stopping:
            server.force_exit = True
            return
        LOG.info("stopping: storing what was received")
        stopping.add(asyncio.create_task(stop(), name="stop"))

    async def end_if_failed() -> None:
        await service.failed.wait()
        server.should_exit = True

    scheme = "https" if settings.tls_cert else "http"

    async def tell_first_link() -> None:
        await service.running_now.wait()
        if first_link is not None and parts.keys.first is not None:
            first_link(parts.signing_in.first_link(f"{scheme}://{host}:{port}"))

    telling = asyncio.create_task(tell_first_link(), name="first-link")
    stopping_early = asyncio.create_task(end_if_failed(), name="end-if-failed")
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    if started is not None:
        started(f"{scheme}://{host}:{port}/ui")
    # What is loaded by now stays: a full collection need not walk it, which would stop capture for milliseconds.
    gc.collect()
    gc.freeze()
    LOG.info("serving on %s:%s, data in %s", host, port, service.settings.data_path)
    await server.serve(sockets=[listener])
    LOG.info("stopped")
    stopping_early.cancel()
    telling.cancel()
    return 1 if service.phase == "failed" else 0


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as exc:
        raise ConfigurationError(f"cannot serve on {host}:{port} (ORCH_HEALTH_HOST, ORCH_HEALTH_PORT): {exc}") from exc
    return listener
