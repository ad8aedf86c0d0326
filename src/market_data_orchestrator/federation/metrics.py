"""What is counted of requests to peers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal

from prometheus_client import CollectorRegistry, Counter

from market_data_core.web import precreate
from market_data_orchestrator.federation.peers import Peer

Action = Literal["forward", "fanout", "health"]
Outcome = Literal["ok", "error", "unreachable", "open", "denied", "cancelled"]

ACTIONS: Final[tuple[Action, ...]] = ("forward", "fanout", "health")
"""Values of the label ``action``."""

OUTCOMES: Final[tuple[Outcome, ...]] = ("ok", "error", "unreachable", "open", "denied", "cancelled")
"""Values of the label ``status``: answered below 400, answered otherwise, no answer, not tried because the circuit
breaker is open, not allowed, given up by the caller.
"""

UNKNOWN: Final = "unknown"
"""The label ``target`` of what was asked of no configured peer."""


def requests_counter(registry: CollectorRegistry, peers: Iterable[Peer] = ()) -> Counter:
    """Return ``orchestrator_federation_requests_total{target,action,status}``, at zero for all peers.

    Args:
        registry: Where it is registered.
        peers: The peers; they and `UNKNOWN` are the only targets there are.
    """
    counter = Counter(
        "orchestrator_federation_requests",
        "Requests to peers, by peer, kind and what became of them.",
        ["target", "action", "status"],
        registry=registry,
    )
    precreate(counter, target=[UNKNOWN, *(p.name for p in peers)], action=ACTIONS, status=OUTCOMES)
    return counter
