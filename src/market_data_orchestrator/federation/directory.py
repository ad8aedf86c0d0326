"""Who is in the federation, and how they are, by asking them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import Final, Self

from prometheus_client import Counter
from pydantic import ValidationError as PydanticValidationError

from market_data_core import __version__
from market_data_core.clock import NS_PER_SECOND, Clock, SystemClock
from market_data_core.errors import ConnectionFailed
from market_data_core.federation import ClusterId, ClusterTopology, NodeId, NodeRole, NodeStatus, Region
from market_data_core.telemetry import HealthState, HealthStatus
from market_data_orchestrator.federation.client import GarbledAnswer, PeerClient
from market_data_orchestrator.federation.metrics import Outcome
from market_data_orchestrator.federation.peers import Peer, parse_peers

UNSEEN_VERSION: Final = "unknown"
"""Version of a peer that was never seen; its `last_seen_ts` is 0."""

_VERSION_CHARS: Final = 64

# By what a service calls itself in its health; peers are orchestrators unless they say otherwise.
_ROLES: Final = MappingProxyType({"ingest": NodeRole.PIPELINE, "pipeline": NodeRole.PIPELINE, "store": NodeRole.STORE})


@dataclass(frozen=True, slots=True, kw_only=True)
class ThisNode:
    """The node that answers, as it stands in its own topology.

    Attributes:
        node_id: Its name.
        cluster_id: Its cluster.
        region: Where it runs.
        role: What it does.
        version: Version of its software.
        health: Says how it is; quick, and not to be waited for.
    """

    node_id: str = "orchestrator-local"
    cluster_id: str = "default"
    region: str = "local"
    role: NodeRole = NodeRole.ORCHESTRATOR
    version: str = __version__
    health: Callable[[], HealthState] = lambda: "healthy"

    def status(self, clock: Clock) -> NodeStatus:
        """Return how it is now."""
        return NodeStatus(
            node_id=NodeId(value=self.node_id),
            role=self.role,
            health=self.health(),
            version=self.version,
            last_seen_ts=clock.now_ns() / NS_PER_SECOND,
        )

    def topology(self, clock: Clock, others: Iterable[NodeStatus]) -> ClusterTopology:
        """Return the cluster: this node, then the others."""
        return ClusterTopology(
            cluster_id=ClusterId(value=self.cluster_id),
            region=Region(name=self.region),
            nodes=[self.status(clock), *others],
        )


def unseen(peer: Peer) -> NodeStatus:
    """Return what is known of a peer that was never seen."""
    return NodeStatus(
        node_id=NodeId(value=peer.name),
        role=NodeRole.ORCHESTRATOR,
        health="unhealthy",
        version=UNSEEN_VERSION,
        last_seen_ts=0.0,
    )


class StaticDirectory:
    """The configured peers; how they are is what their ``/health`` says.

    All are asked at the same time, and what they said holds for a few seconds; those who ask meanwhile share it.
    Belongs to one event loop.

    Args:
        peers: Peers, or entries as in ``ORCH_FEDERATION_PEERS``.
        node: This node.
        client: Calls them; one of its own, closed with `aclose`, if None.
        requests: See `requests_counter`; not counted if None.
        clock: Says when they were seen; the system's if None.
        timeout_s: How long a peer may take to answer, seconds.
        fresh_s: How long an answer holds, seconds.

    Raises:
        ConfigurationError: An entry is no peer; the message names it.
    """

    def __init__(
        self,
        peers: Iterable[str | Peer],
        *,
        node: ThisNode | None = None,
        client: PeerClient | None = None,
        requests: Counter | None = None,
        clock: Clock | None = None,
        timeout_s: float = 2.0,
        fresh_s: float = 3.0,
    ) -> None:
        self._node = node or ThisNode()
        self._peers = parse_peers(peers, node_id=self._node.node_id)
        self._client = client or PeerClient()
        self._owns_client = client is None
        self._requests = requests
        self._clock = clock or SystemClock()
        self._timeout_s = timeout_s
        self._fresh_s = fresh_s
        self._seen = {peer.name: unseen(peer) for peer in self._peers}
        self._asked_at_s = float("-inf")
        self._asking = asyncio.Lock()

    async def topology(self) -> ClusterTopology:
        """Return this node and all peers, in the order of the configuration.

        A peer that does not answer as it should is ``unhealthy``, with what else was known when it last did.
        """
        async with self._asking:
            if self._clock.monotonic_s() - self._asked_at_s >= self._fresh_s:
                async with asyncio.TaskGroup() as group:
                    for peer in self._peers:
                        group.create_task(self._look_at(peer), name=f"federation: health of {peer.name}")
                self._asked_at_s = self._clock.monotonic_s()
        return self._node.topology(self._clock, self._seen.values())

    async def endpoints(self) -> Mapping[str, str]:
        """Return base URLs by peer name, in the order of the configuration."""
        return {peer.name: peer.url for peer in self._peers}

    async def aclose(self) -> None:
        """Close the connections, if they are its own."""
        if self._owns_client:
            await self._client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _look_at(self, peer: Peer) -> None:
        outcome: Outcome = "unreachable"
        try:
            said = await self._health_of(peer)
        except ConnectionFailed:
            # Being away is an answer to this question, not an error of it.
            self._seen[peer.name] = self._seen[peer.name].model_copy(update={"health": "unhealthy"})
        else:
            self._seen[peer.name] = NodeStatus(
                node_id=NodeId(value=peer.name),
                role=_ROLES.get(said.service, NodeRole.ORCHESTRATOR),
                health=said.state,
                version=said.version[:_VERSION_CHARS],
                # By our clock: that of the peer may stand elsewhere.
                last_seen_ts=self._clock.now_ns() / NS_PER_SECOND,
            )
            outcome = "ok"
        if self._requests is not None:
            self._requests.labels(target=peer.name, action="health", status=outcome).inc()

    async def _health_of(self, peer: Peer) -> HealthStatus:
        answer = await self._client.call(peer, "GET", "/health", timeout_s=self._timeout_s)
        try:
            return HealthStatus.model_validate(answer.data)
        except PydanticValidationError as exc:
            raise GarbledAnswer(f"peer {peer.name} answered {answer.status_code} with what is no health") from exc
