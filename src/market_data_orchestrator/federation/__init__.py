"""Other orchestrators: who they are, how they are, and requests to them.

`market_data_orchestrator.federation.heartbeat` has the directory over Redis, which needs the package redis.
"""

from __future__ import annotations

from market_data_orchestrator.federation.client import Answer, GarbledAnswer, PeerClient
from market_data_orchestrator.federation.directory import StaticDirectory, ThisNode
from market_data_orchestrator.federation.endpoints import FanOutRequest, ForwardRequest, federation_routers
from market_data_orchestrator.federation.identity import FederatedCaller
from market_data_orchestrator.federation.metrics import requests_counter
from market_data_orchestrator.federation.peers import Peer, parse_peers
from market_data_orchestrator.federation.policies import DEFAULT_ROUTES, checked_route
from market_data_orchestrator.federation.service import Federation, FederationRecord, Forwarded, Recorder

__all__ = [
    "DEFAULT_ROUTES",
    "Answer",
    "FanOutRequest",
    "FederatedCaller",
    "Federation",
    "FederationRecord",
    "ForwardRequest",
    "Forwarded",
    "GarbledAnswer",
    "Peer",
    "PeerClient",
    "Recorder",
    "StaticDirectory",
    "ThisNode",
    "checked_route",
    "federation_routers",
    "parse_peers",
    "requests_counter",
]
