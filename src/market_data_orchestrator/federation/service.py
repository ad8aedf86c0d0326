"""Requests to peers on a caller's behalf."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final, Literal

from prometheus_client import Counter

from market_data_core.clock import Clock, SystemClock
from market_data_core.errors import (
    ConfigurationError,
    ConnectionFailed,
    MarketDataError,
    PermissionsMissing,
    RegistryError,
    TemporaryUnavailable,
)
from market_data_core.web import REQUEST_ID_HEADER, request_id
from market_data_core.web.auth import Principal
from market_data_orchestrator.federation.client import Answer, PeerClient
from market_data_orchestrator.federation.identity import FEDERATED, checked_token, forwarding_headers
from market_data_orchestrator.federation.metrics import UNKNOWN, Outcome
from market_data_orchestrator.federation.peers import Peer
from market_data_orchestrator.federation.policies import DEFAULT_ROUTES, IDEMPOTENT_METHODS, checked_route
from market_data_pipeline.orchestration import CircuitBreaker

_LOG = logging.getLogger(__name__)
_TRIES: Final = 3
_PAUSE_S: Final = 0.1
# More at once would only wait for one another.
_AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class FederationRecord:
    """What the audit trail is told of one request to one peer.

    Attributes:
        actor: Who asked.
        role: Their role here.
        target: The peer, as it was named by them.
        action: ``forward`` or ``fanout``.
        method: HTTP method.
        path: Path at the peer, without its query.
        outcome: ``started`` before the request leaves; then what became of it.
        status_code: What the peer answered; None without an answer.
        detail: Why there is none; empty otherwise.
        duration_s: Seconds since it started.
    """

    actor: str
    role: str
    target: str
    action: Literal["forward", "fanout"]
    method: str
    path: str
    outcome: Literal["started"] | Outcome
    status_code: int | None = None
    detail: str = ""
    duration_s: float = 0.0


Recorder = Callable[[FederationRecord], Awaitable[None]]
"""Keeps a record. What it raises for ``started`` keeps the request from being sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forwarded:
    """What became of a request at one peer.

    Attributes:
        target: The peer's name.
        status_code: What it answered; None without an answer.
        data: The body of its answer, from JSON.
        error: Why there is no answer; None with one.
    """

    target: str
    status_code: int | None = None
    data: Any = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    action: Literal["forward", "fanout"]
    method: str
    path: str
    payload: Any
    caller: Principal


class Federation:
    """Asks peers what a caller wants to know or done there, and under whose name.

    Only configured peers and listed routes are asked, one hop far. What may be asked twice is tried again within the
    deadline where the connection failed; anything else is sent once. A peer that fails again and again is left alone
    for a while.

    Args:
        peers: The peers.
        node_id: This node.
        token: The service token; empty where there is none, and then nothing is forwarded.
        client: Calls them; whoever made it closes it.
        requests: See `requests_counter`.
        recorder: The audit trail.
        allowed: Methods and paths that are forwarded.
        clock: Times retries and breakers; the system's if None.
        timeout_s: How long a peer may take in all, seconds.
        breaker_threshold: Failures in a row after which a peer is left alone.
        breaker_timeout_s: For how long, seconds.
        random: Spreads retries.

    Raises:
        ConfigurationError: The token is no token, or a number is out of range.
    """

    def __init__(
        self,
        peers: Sequence[Peer],
        *,
        node_id: str,
        token: str,
        client: PeerClient,
        requests: Counter,
        recorder: Recorder,
        allowed: Collection[tuple[str, str]] = DEFAULT_ROUTES,
        clock: Clock | None = None,
        timeout_s: float = 10.0,
        breaker_threshold: int = 5,
        breaker_timeout_s: float = 30.0,
        random: Random | None = None,
    ) -> None:
        self._token = checked_token(token) if token else ""
        self._peers = {peer.name: peer for peer in peers}
        self._node_id = node_id
        self._client = client
        self._requests = requests
        self._recorder = recorder
        self._allowed = allowed
        self._clock = clock or SystemClock()
        self._timeout_s = timeout_s
        self._random = random or Random()  # noqa: S311  spreads retries, guards nothing
        for peer in peers:
            if token and not peer.is_private:
                _LOG.warning("peer %s is called over http: the service token can be read on the way", peer.name)
        self._breakers = {
            name: CircuitBreaker(breaker_threshold, breaker_timeout_s, clock=self._clock) for name in self._peers
        }

    @property
    def peers(self) -> tuple[str, ...]:
        """Names of the peers, in the order of the configuration."""
        return tuple(self._peers)

    async def forward(
        self,
        peer: str,
        *,
        path: str,
        method: str,
        payload: Any = None,
        caller: Principal,
        received_from: str | None = None,
    ) -> Forwarded:
        """Ask one peer.

        Args:
            peer: Its name.
            path: Path and query at the peer.
            method: HTTP method.
            payload: Sent as JSON; None for no body.
            caller: Who asks.
            received_from: The node that forwarded the request to us; None if the caller asked us.

        Raises:
            RegistryError: There is no such peer.
            PermissionsMissing: That is not forwarded, or it was forwarded to us already.
            ValidationError: The path is none.
            ConfigurationError: There is no service token.
            TemporaryUnavailable: The peer did not answer, or is left alone for now.
        """
        order = _Order(action="forward", method=method, path=path, payload=payload, caller=caller)
        (target,), order = await self._admitted([peer], order, received_from)
        answer = await self._asked(target, order)
        return Forwarded(target=peer, status_code=answer.status_code, data=answer.data)

    async def fan_out(
        self,
        *,
        path: str,
        method: str,
        payload: Any = None,
        caller: Principal,
        peers: Sequence[str] | None = None,
        received_from: str | None = None,
    ) -> list[Forwarded]:
        """Ask many peers at the same time; that one fails does not keep others from answering.

        Args:
            path: Path and query at the peers.
            method: HTTP method.
            payload: Sent as JSON; None for no body.
            caller: Who asks.
            peers: Names; all peers if None. One named twice is asked once.
            received_from: The node that forwarded the request to us; None if the caller asked us.

        Returns:
            One result for each, in the order named.

        Raises:
            RegistryError: There is no such peer; then none is asked.
            PermissionsMissing: That is not forwarded, or it was forwarded to us already.
            ValidationError: The path is none.
            ConfigurationError: There is no service token.
        """
        order = _Order(action="fanout", method=method, path=path, payload=payload, caller=caller)
        names = list(dict.fromkeys(self._peers if peers is None else peers))
        targets, admitted = await self._admitted(names, order, received_from)
        at_once = asyncio.Semaphore(_AT_ONCE)

        async def ask(target: Peer) -> Forwarded:
            async with at_once:
                try:
                    answer = await self._asked(target, admitted)
                except MarketDataError as exc:
                    return Forwarded(target=target.name, error=exc.message)
                return Forwarded(target=target.name, status_code=answer.status_code, data=answer.data)

        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(ask(target), name=f"federation: {target.name}") for target in targets]
        return [task.result() for task in asked]

    async def _admitted(
        self, names: Sequence[str], order: _Order, received_from: str | None
    ) -> tuple[list[Peer], _Order]:
        try:
            if received_from is not None or order.caller.name.startswith(FEDERATED):
                raise PermissionsMissing("a request that was forwarded once is not forwarded again")
            method, path = checked_route(order.method, order.path, self._allowed)
            unknown = next((name for name in names if name not in self._peers), None)
            if unknown is not None:
                raise RegistryError(f"no peer is named {unknown[:64]!r}; there are: {', '.join(self._peers) or 'none'}")
            if not self._token:
                raise ConfigurationError("nothing is forwarded without a service token (ORCH_FEDERATION_TOKEN)")
        except MarketDataError as exc:
            for name in names:
                await self._told(name, order, "denied", detail=exc.message)
            raise
        checked = _Order(action=order.action, method=method, path=path, payload=order.payload, caller=order.caller)
        return [self._peers[name] for name in names], checked

    async def _asked(self, peer: Peer, order: _Order) -> Answer:
        breaker = self._breakers[peer.name]
        if breaker.is_open():
            unavailable = TemporaryUnavailable(f"peer {peer.name} has failed repeatedly and is left alone for now")
            unavailable.retry_after_sec = breaker.retry_in_s
            await self._told(peer.name, order, "open", detail=unavailable.message)
            raise unavailable
        await self._recorder(_record(peer.name, order, "started"))
        began_s = self._clock.monotonic_s()
        outcome: Outcome = "cancelled"
        status_code, detail = None, ""
        try:
            answer = await self._tried(peer, order)
            await breaker.record_success()
            outcome, status_code = "ok" if answer.status_code < 400 else "error", answer.status_code
        except ConnectionFailed as exc:
            await breaker.record_failure()
            outcome, detail = "unreachable", exc.message
            raise TemporaryUnavailable(exc.message) from exc
        except MarketDataError as exc:
            outcome, detail = "denied", exc.message
            raise
        finally:
            duration_s = self._clock.monotonic_s() - began_s
            await self._ended(peer.name, order, outcome, status_code=status_code, detail=detail, duration_s=duration_s)
        return answer

    # All tries share one deadline.
    async def _tried(self, peer: Peer, order: _Order) -> Answer:
        until_s = self._clock.monotonic_s() + self._timeout_s
        left = _TRIES if order.method in IDEMPOTENT_METHODS else 1
        headers = forwarding_headers(token=self._token, node_id=self._node_id, caller=order.caller)
        if request_id():
            headers[REQUEST_ID_HEADER] = request_id()
        while True:
            left -= 1
            timeout_s = until_s - self._clock.monotonic_s()
            try:
                return await self._client.call(
                    peer, order.method, order.path, timeout_s=timeout_s, headers=headers, payload=order.payload
                )
            except ConnectionFailed as exc:
                pause_s = _PAUSE_S * (0.5 + self._random.random())
                if not left or not exc.retryable or until_s - self._clock.monotonic_s() <= pause_s:
                    raise
                await self._clock.sleep(pause_s)

    async def _ended(self, target: str, order: _Order, outcome: Outcome, **ending: Any) -> None:
        try:
            await self._told(target, order, outcome, **ending)
        except MarketDataError as exc:
            # It has happened and its start is on record: a caller who got an error instead might do it again.
            _LOG.error("the end of a request to peer %s is not on record: %s", target, exc)

    async def _told(self, target: str, order: _Order, outcome: Outcome, **ending: Any) -> None:
        known = target if target in self._peers else UNKNOWN
        self._requests.labels(target=known, action=order.action, status=outcome).inc()
        await self._recorder(_record(target, order, outcome, **ending))


def _record(target: str, order: _Order, outcome: Literal["started"] | Outcome, **ending: Any) -> FederationRecord:
    return FederationRecord(
        actor=order.caller.name,
        role=order.caller.role.value,
        target=target,
        action=order.action,
        method=order.method,
        path=order.path.partition("?")[0],
        outcome=outcome,
        **ending,
    )
