"""Starts the whole platform: ``python -m market_data_orchestrator.launcher``, also ``mdo up``."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator

import uvicorn

from market_data_core.errors import ConfigurationError, MarketDataError
from market_data_orchestrator.app import create_app
from market_data_orchestrator.logs import configure_logging
from market_data_orchestrator.service import Service
from market_data_orchestrator.settings import OrchestratorSettings, load_settings
from market_data_pipeline.loops import loop_factory

LOG = logging.getLogger(__name__)
_CLOSE_S = 3


class _Server(uvicorn.Server):
    # The launcher handles signals itself: intake stops and what was received is stored before the doors close.
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(settings: OrchestratorSettings, *, started: Callable[[str], None] | None = None) -> int:
    """Run the service until a signal ends it.

    Args:
        settings: How.
        started: Told the cockpit's address as soon as it answers.

    Returns:
        The exit code: 0 after a clean stop, 1 if the service could not start.

    Raises:
        ConfigurationError: The address cannot be served on.
    """
    listener = _listen(settings.health_host, settings.health_port)
    host, port = listener.getsockname()[:2]
    service = Service(settings)
    app = create_app(service)
    server = _Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            ws="websockets-sansio",
            ws_ping_interval=20.0,
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
        await app.state.feed.end()
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

    stopping_early = asyncio.create_task(end_if_failed(), name="end-if-failed")
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    if started is not None:
        scheme = "https" if settings.tls_cert else "http"
        started(f"{scheme}://{host}:{port}/ui")
    # What is loaded by now stays: a full collection need not walk it, which would stop capture for milliseconds.
    gc.collect()
    gc.freeze()
    LOG.info("serving on %s:%s, data in %s", host, port, settings.data_path)
    await server.serve(sockets=[listener])
    LOG.info("stopped")
    stopping_early.cancel()
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


def run(settings: OrchestratorSettings, *, started: Callable[[str], None] | None = None) -> int:
    """Run the service until a signal ends it; see `serve`."""
    configure_logging(settings.log_level, settings.log_format)
    # Threads that wait for the interpreter get it within a millisecond instead of five: capture is one of them.
    sys.setswitchinterval(0.001)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(serve(settings, started=started))


def main() -> int:
    """Run with settings from the environment; the exit code is 2 for wrong settings, 1 for failure."""
    try:
        settings = load_settings()
        return run(settings, started=lambda url: print(f"Cockpit: {url}", flush=True))  # noqa: T201  for the person who started it
    except ConfigurationError as exc:
        print(f"error: {exc}", file=sys.stderr)  # noqa: T201
        return 2
    except MarketDataError as exc:
        print(f"error: {exc}", file=sys.stderr)  # noqa: T201
        return 1


if __name__ == "__main__":
    sys.exit(main())
