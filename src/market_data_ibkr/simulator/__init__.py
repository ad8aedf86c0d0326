"""A gateway to try things on: it speaks the protocol, has a made-up market, and fails as it is told."""

from market_data_ibkr.simulator.gateway import Request, SimulatedGateway

__all__ = ["Request", "SimulatedGateway"]
