"""The simulated gateway for tests that are no coroutines."""

from __future__ import annotations

import asyncio
import threading

from market_data_ibkr.simulator import SimulatedGateway


class GatewayThread:
    """A simulated gateway with a moving market on an event loop of its own."""

    def __init__(self):
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.gateway = SimulatedGateway(interval_s=0.02)
        self._run(self.gateway.start())

    def _run(self, work):
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def reset(self):
        """Cut all connections."""

        async def reset():
            self.gateway.reset()

        self._run(reset())

    def close(self):
        """Stop it."""
        self._run(self.gateway.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
