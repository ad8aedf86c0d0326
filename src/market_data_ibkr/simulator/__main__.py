"""Run the simulated gateway: ``python -m market_data_ibkr.simulator --port 7497``."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal

from market_data_core.errors import ConfigurationError, MarketDataError
from market_data_ibkr.simulator.gateway import SimulatedGateway

LOG = logging.getLogger("market_data_ibkr.simulator")
_FAULTS = ("reset", "finish", "silence", "partial", "drip", "huge", "garbage")


def _fault(text: str) -> tuple[float, str]:
    at, _, what = text.partition(":")
    if what not in _FAULTS and not what.isdigit():
        raise argparse.ArgumentTypeError(f"{what!r} is neither a code nor one of {', '.join(_FAULTS)}")
    return float(at), what


def _denial(text: str) -> tuple[str, int]:
    name, _, code = text.partition("=")
    return name.upper(), int(code)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m market_data_ibkr.simulator", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=7497)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--interval", type=float, default=0.25, help="seconds between moves of the market")
    parser.add_argument("--deny", type=_denial, action="append", default=[], metavar="NAME=CODE")
    parser.add_argument(
        "--fault", type=_fault, action="append", default=[], metavar="SECONDS:WHAT", help="a code or a kind of failure"
    )
    return parser.parse_args()


def _do(gateway: SimulatedGateway, what: str) -> None:
    LOG.info("fault: %s", what)
    if what.isdigit():
        gateway.say(int(what))
    else:
        getattr(gateway, what)()


async def _run(given: argparse.Namespace) -> None:
    if given.interval <= 0:
        raise ConfigurationError(f"--interval {given.interval} must be positive")
    gateway = SimulatedGateway(
        host=given.host, port=given.port, seed=given.seed, interval_s=given.interval, deny=dict(given.deny)
    )
    await gateway.start()
    LOG.info("listening at %s:%d", given.host, gateway.port)
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, over.set)
    for at_s, what in given.fault:
        loop.call_later(at_s, _do, gateway, what)
    await over.wait()
    await gateway.close()


def main() -> int:
    """Run until interrupted; return the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        asyncio.run(_run(_arguments()))
    except MarketDataError as exc:
        LOG.error("%s", exc)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
