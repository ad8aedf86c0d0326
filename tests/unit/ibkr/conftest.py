"""A desk: a simulated gateway and providers on it."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
from ibkr_desk import Desk

from market_data_ibkr.simulator import SimulatedGateway


@pytest.fixture
def desk():
    """What opens a desk, with the arguments of its gateway."""

    @asynccontextmanager
    async def opened(**given):
        gateway = SimulatedGateway(**given)
        await gateway.start()
        made = Desk(gateway)
        try:
            yield made
        finally:
            for provider in made.providers:
                await provider.close()
            await gateway.close()

    return opened
