"""Starts the whole platform: ``python -m market_data_orchestrator.launcher``, also ``mdo up``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

from market_data_core.errors import ConfigurationError, MarketDataError
from market_data_orchestrator.composition import engine_settings
from market_data_orchestrator.config import PlatformConfig, load_platform
from market_data_orchestrator.settings import OrchestratorSettings, load_settings
from market_data_pipeline.worker import WorkerConsumers


def run(
    settings: OrchestratorSettings,
    *,
    started: Callable[[str], None] | None = None,
    first_link: Callable[[str], None] | None = None,
) -> int:
    """Run the service until a signal ends it.

    Args:
        settings: How.
        started: Told the cockpit's address as soon as it answers.
        first_link: Told, at the first start of all, a link that signs in once.

    Returns:
        The exit code: 0 after a clean stop, 1 if the service could not start.

    Raises:
        ConfigurationError: Settings or configuration are wrong, or the address or certificate cannot be served with.
    """
    config = load_platform(settings=settings)
    _check_certificate(settings.tls_cert, settings.tls_key)
    consumers = _begun(settings, config)
    try:
        # Imported here: the worker opens the store meanwhile, and need not carry what only the doors need.
        from market_data_orchestrator.logs import configure_logging  # noqa: PLC0415
        from market_data_orchestrator.serving import serve  # noqa: PLC0415
        from market_data_pipeline.loops import loop_factory  # noqa: PLC0415

        configure_logging(settings.log_level, settings.log_format)
        # Threads that wait for the interpreter get it within a millisecond instead of five: capture is one of them.
        sys.setswitchinterval(0.001)
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(serve(settings, config, consumers=consumers, started=started, first_link=first_link))
    finally:
        if consumers is not None:
            consumers.close()


def _begun(settings: OrchestratorSettings, config: PlatformConfig) -> WorkerConsumers | None:
    made = engine_settings(config.applied_to(settings), config)
    if made.consumers != "process":
        return None
    consumers = WorkerConsumers(made.consumers_config())
    consumers.begin(copy=True)
    return consumers


def _check_certificate(cert: Path | None, key: Path | None) -> None:
    if cert is None:
        if key is not None:
            raise ConfigurationError(f"ORCH_TLS_KEY is {key}, but ORCH_TLS_CERT names no certificate for it")
        return
    import ssl  # noqa: PLC0415  the worker, which is a copy of this process, has no need of it

    where = f"ORCH_TLS_CERT {cert}" + (f" with ORCH_TLS_KEY {key}" if key is not None else ", which is to hold its key")
    try:
        # Without a password nobody is asked for one: a service has no terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=lambda: "")
    except ssl.SSLError as exc:
        problem = f"no PEM certificate and key that belong together, or the key has a password ({exc.reason})"
        raise ConfigurationError(f"cannot serve with {where}: {problem}") from exc
    except OSError as exc:
        raise ConfigurationError(f"cannot serve with {where}: {exc.strerror}") from exc


def main() -> int:
    """Run with settings from the environment; the exit code is 2 for wrong settings, 1 for failure."""
    try:
        settings = load_settings()
        return run(
            settings,
            started=lambda url: print(f"Cockpit: {url}", flush=True),  # noqa: T201  for the person who started it
            first_link=lambda url: print(f"Sign in, once, within ten minutes: {url}", flush=True),  # noqa: T201
        )
    except ConfigurationError as exc:
        print(f"error: {exc}", file=sys.stderr)  # noqa: T201
        return 2
    except MarketDataError as exc:
        print(f"error: {exc}", file=sys.stderr)  # noqa: T201
        return 1


if __name__ == "__main__":
    sys.exit(main())
