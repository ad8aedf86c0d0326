"""Who is in the federation, and how they are, by what they say of themselves over Redis.

Each node writes a key with a time to live, ``market_data:federation:<cluster>:alive:<node>``, and how it is into the
hash ``market_data:federation:<cluster>:nodes``, which outlives the key: so it is known when a dead node was last seen.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Iterable, Mapping
from types import TracebackType
from typing import Any, Final, Self, cast
from urllib.parse import urlsplit

from pydantic import ValidationError as PydanticValidationError

from market_data_core.clock import NS_PER_SECOND, Clock, SystemClock
from market_data_core.errors import ConfigurationError, TemporaryUnavailable
from market_data_core.federation import ClusterTopology, NodeStatus
from market_data_orchestrator.federation.directory import ThisNode, unseen
from market_data_orchestrator.federation.peers import Peer, parse_peers

try:
    from redis import asyncio as redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.exceptions import RedisError
except ImportError as exc:
    raise ConfigurationError(f"federation heartbeats need the package redis (pip install redis): {exc}") from exc

_LOG = logging.getLogger(__name__)
_PREFIX: Final = "market_data:federation"
_TIMEOUT_S: Final = 2.0
# A node that is no peer of ours and has been silent for so long is not coming back.
_FORGET_S: Final = 86_400.0


class HeartbeatDirectory:
    """The configured peers and whoever else of the cluster says over Redis how they are.

    Where a peer is called is what the configuration says, never what Redis says: who can write there can make a node
    seem well or ill, but cannot have requests, and the service token in them, sent anywhere.

    Args:
        peers: Peers, or entries as in ``ORCH_FEDERATION_PEERS``; their names are the node ids they beat under.
        url: ``redis://[user:password@]host:port/db`` or ``rediss://``.
        node: This node.
        clock: Says when we were seen, and paces `run`; the system's if None.
        interval_s: Seconds between heartbeats.
        ttl_s: How long after its last heartbeat a node counts as alive, seconds; three intervals by default.
        timeout_s: How long the server may take to answer, seconds.

    Raises:
        ConfigurationError: An entry is no peer, the URL is none, or the numbers do not fit.
    """

    def __init__(
        self,
        peers: Iterable[str | Peer],
        *,
        url: str,
        node: ThisNode | None = None,
        clock: Clock | None = None,
        interval_s: float = 2.0,
        ttl_s: float | None = None,
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        self._node = node or ThisNode()
        self._peers = parse_peers(peers, node_id=self._node.node_id)
        self._clock = clock or SystemClock()
        self._interval_s = interval_s
        ttl_s = 3 * interval_s if ttl_s is None else ttl_s
        self._ttl_ms = int(ttl_s * 1000)
        if not 0 < interval_s < ttl_s or self._ttl_ms < 1:
            raise ConfigurationError(
                f"federation heartbeats: ttl_s {ttl_s} is to be above interval_s {interval_s}, and that above 0"
            )
        self._prefix = f"{_PREFIX}:{self._node.cluster_id}"
        self._nodes_key = f"{self._prefix}:nodes"
        try:
            parts = urlsplit(url)
            self._where = f"{parts.scheme}://{parts.hostname}:{parts.port or 6379}{parts.path}"
            self._redis = redis.Redis.from_url(
                url,
                decode_responses=True,
                encoding_errors="replace",  # an entry that is no text is an entry that is no heartbeat
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
                # The next heartbeat is the retry.
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError as exc:
            raise ConfigurationError(f"federation heartbeats: no URL of a Redis server: {exc}") from exc

    async def beat(self) -> None:
        """Say once how this node is.

        Raises:
            TemporaryUnavailable: Redis is away.
        """
        status = self._node.status(self._clock)
        try:
            async with self._redis.pipeline(transaction=True) as pipe:
                pipe.hset(self._nodes_key, self._node.node_id, status.model_dump_json())
                pipe.set(self._alive_key(self._node.node_id), "1", px=self._ttl_ms)
                await pipe.execute()
        except (RedisError, OSError) as exc:
            raise self._away(exc) from exc

    async def run(self) -> None:
        """Say so again and again until cancelled; while Redis is away, that is logged and tried again."""
        is_away = False
        while True:
            try:
                await self.beat()
                is_away = False
            except TemporaryUnavailable as exc:
                if not is_away:
                    _LOG.warning("no heartbeat is sent: %s", exc)
                is_away = True
            await self._clock.sleep(self._interval_s)

    async def topology(self) -> ClusterTopology:
        """Return this node, all peers in the order of the configuration, and then other nodes by name.

        A node whose heartbeats have ceased is ``unhealthy``, with what else it last said.

        Raises:
            TemporaryUnavailable: Redis is away.
        """
        try:
            said = await cast("Awaitable[dict[str, str]]", self._redis.hgetall(self._nodes_key))
            names = [name for name in said if name != self._node.node_id]
            beats = await self._redis.mget([self._alive_key(name) for name in names]) if names else []
        except (RedisError, OSError) as exc:
            raise self._away(exc) from exc
        alive = {name for name, beat in zip(names, beats, strict=True) if beat is not None}
        seen = {peer.name: unseen(peer) for peer in self._peers}
        oldest_s = self._clock.now_ns() / NS_PER_SECOND - _FORGET_S
        for name in sorted(names):
            status = self._parsed(name, said[name])
            if status is not None and (name in alive or name in seen or status.last_seen_ts >= oldest_s):
                seen[name] = status if name in alive else status.model_copy(update={"health": "unhealthy"})
        return self._node.topology(self._clock, seen.values())

    async def endpoints(self) -> Mapping[str, str]:
        """Return base URLs by peer name, in the order of the configuration."""
        return {peer.name: peer.url for peer in self._peers}

    async def aclose(self) -> None:
        """End the connection; this node is found dead once its last heartbeat is over."""
        await self._redis.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _alive_key(self, node_id: str) -> str:
        return f"{self._prefix}:alive:{node_id}"

    def _away(self, exc: Exception) -> TemporaryUnavailable:
        return TemporaryUnavailable(f"federation heartbeats: {self._where} does not serve: {type(exc).__name__}")

    # One bad entry, of whoever else writes there, does not hide the others.
    def _parsed(self, name: str, text: Any) -> NodeStatus | None:
        try:
            status = NodeStatus.model_validate_json(text)
        except PydanticValidationError as exc:
            _LOG.warning("heartbeat of %r is none: %s", name, exc.errors(include_input=False, include_url=False))
            return None
        return status if status.node_id.value == name else None
