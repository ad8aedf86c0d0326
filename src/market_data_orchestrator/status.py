"""What the service says of itself: health with causes, the ledger, and everything people look at."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from market_data_core import __version__
from market_data_core.addresses import without_password
from market_data_core.clock import NS_PER_SECOND
from market_data_core.telemetry import BackpressureLevel, HealthComponent, HealthState, HealthStatus, Probe
from market_data_orchestrator.protocols import RateLimiter
from market_data_orchestrator.service import Service
from market_data_pipeline.consumers import Ledger

SERVICE = "orchestrator"
SHOWN_SYMBOLS = 500
_CAUSES = ("absorbed", "filtered", "duplicate", "late", "suppressed", "quarantined", "failed", "in_flight")
_STUCK_S = 10.0
_STATE_ORDER: dict[HealthState, int] = {"healthy": 0, "degraded": 1, "unhealthy": 2}


class StatusAggregator:
    """Gathers what the parts say; what it gathered is good for a moment, however many ask.

    Args:
        service: Of whom.
        limits: Said to be degraded while what they share is away; not spoken of where they share nothing, or if None.
        fresh_s: How long an answer may be given again.
        stale_s: A live provider that gives nothing for so long is called stale.
    """

    def __init__(
        self, service: Service, *, limits: RateLimiter | None = None, fresh_s: float = 0.2, stale_s: float = 10.0
    ) -> None:
        self._service = service
        self._limits = limits
        self._fresh_s = fresh_s
        self._stale_s = stale_s
        self._made_at = float("-inf")
        self._made_in: tuple[str, bool] = ("", False)
        self._parts: dict[str, Any] = {}
        self._consumers: list[dict[str, Any]] = []
        self._sources: list[dict[str, Any]] = []
        self._needed: list[dict[str, Any]] = []
        self._status: dict[str, Any] | None = None
        self._health = HealthStatus(service=SERVICE, state="degraded", version=__version__, ts=time.time())
        self._rates: dict[str, tuple[float, int, float]] = {}
        self._since: dict[str, float] = {}
        self.ws_clients = 0
        """How many WebSocket clients there are."""
        self.ws_none = asyncio.Event()
        """Set while there is none."""
        self.ws_none.set()

    def status(self) -> dict[str, Any]:
        """Return everything, as plain values."""
        self._refresh()
        if self._status is None:
            self._status = self._assemble(self._parts, self._consumers, self._sources)
        return self._status

    def count_ws(self, change: int) -> None:
        """Take note that a WebSocket client came (1) or left (-1)."""
        self.ws_clients += change
        if self.ws_clients:
            self.ws_none.clear()
        else:
            self.ws_none.set()

    def health(self) -> HealthStatus:
        """Return how the service and each of its components is, with the cause where it is not well."""
        self._refresh()
        return self._health

    def ready(self) -> list[Probe]:
        """Return what must hold before others rely on the service."""
        self._refresh()
        return [
            Probe(
                probe_type="readiness",
                passed=c.state != "unhealthy" and not (c.name == "runtime" and self._service.phase != "running"),
                message=f"{c.name}: {c.detail or c.state}",
            )
            for c in self._health.components
        ]

    def _refresh(self) -> None:
        now = time.monotonic()
        # What an action has just changed is seen at once by whoever asked for it.
        state = (self._service.phase, self._service.paused)
        if now - self._made_at < self._fresh_s and state == self._made_in:
            return
        self._made_at, self._made_in = now, state
        engine = self._service.engine
        self._parts = parts = engine.status() if engine is not None and hasattr(engine, "capture") else {}
        self._consumers = consumers = [self._consumer(n, c, parts) for n, c in parts.get("consumers", {}).items()]
        components = self._components(parts, consumers)
        worst = max((c.state for c in components), key=_STATE_ORDER.__getitem__)
        self._health = HealthStatus(
            service=SERVICE, state=worst, components=components, version=__version__, ts=time.time()
        )
        # Rates and what needs attention since when are told from look to look, whoever it is that looks.
        self._sources = [self._source(s) for s in parts.get("sources", {}).values()]
        self._needed = self._attention()
        # Far more ask how it is than want to see all of it.
        self._status = None

    def _assemble(
        self, parts: Mapping[str, Any], consumers: list[dict[str, Any]], sources: list[dict[str, Any]]
    ) -> dict[str, Any]:
        service, settings = self._service, self._service.settings
        store = parts.get("store", {})
        now = time.time()
        return {
            "service": "market-data-orchestrator",
            "running": service.phase == "running",
            "paused": service.paused,
            "runtime": {
                "state": "paused" if service.paused else service.phase,
                "mode": settings.runtime_mode,
                "problem": service.problem,
            },
            "feedback": service.feedback.state if service.feedback is not None else "disabled",
            "feedback_events": {str(level): service.events.counts[str(level)] for level in BackpressureLevel},
            "event_handler_errors": dict(service.events.errors),
            "version": __version__,
            "node": settings.node_id,
            "region": settings.region,
            "cluster": settings.cluster_id,
            "ts": now,
            "uptime_s": now - service.started_s,
            "health": self._health.model_dump(),
            "provider": next((s for s in sources if s["name"] == service.provider), None)
            or {"name": service.provider, "state": "pending", "symbols": service.symbols.get(service.provider)},
            "sources": sources,
            "log": parts.get("log", {}),
            "store": {
                "url": without_password(settings.store_root),
                "tenant": settings.tenant_id,
                "tables": store.get("tables", {}),
                "commit_age_s": min((c["commit_age_s"] for c in consumers if c["commits"]), default=None),
                "problem": store.get("problem", ""),
                "repairs": store.get("repairs", []),
                "maintenance": store.get("maintenance", {}),
            },
            "consumers": consumers,
            "ledger": ledger_of(consumers),
            "attention": self._needed,
            "symbols": service.board.rows(service.clock.now_ns(), SHOWN_SYMBOLS),
            "jobs": self._jobs(),
            "ws_clients": self.ws_clients,
            "control": {"available": False},
        }

    def _source(self, source: Mapping[str, Any]) -> dict[str, Any]:
        now_ns = self._service.clock.now_ns()
        return {
            **source,
            "symbols": self._service.symbols.get(source["name"]),
            "rate_events_s": self._rate(f"source {source['name']}", source["events"]),
            "age_s": (now_ns - source["ts_recv"]) / 1e9 if source["ts_recv"] else None,
        }

    def _consumer(self, name: str, consumer: Mapping[str, Any], parts: Mapping[str, Any]) -> dict[str, Any]:
        ledger = Ledger.restored(consumer["ledger"], consumer["flow"])
        nodes = [{"name": n, **asdict(counts), "unaccounted": counts.unaccounted} for n, counts in ledger.nodes.items()]
        received = nodes[0]["received"] if nodes else 0
        return {
            **{k: v for k, v in consumer.items() if k not in ("ledger", "flow")},
            "edges": [dict(zip(("from", "port", "to", "events"), e, strict=True)) for e in consumer["flow"]],
            "name": name,
            "lag_events": max(parts["log"]["end"] - consumer["committed"], 0),
            "commit_age_s": time.time() - consumer["ts_committed"] if consumer["ts_committed"] else None,
            "rate_events_s": self._rate(f"consumer {name}", received),
            "unaccounted": ledger.unaccounted,
            "nodes": nodes,
        }

    def _rate(self, key: str, total: int) -> float:
        # Over at least a second, so that commits once a second do not look like bursts and pauses.
        now = time.monotonic()
        at, before, rate = self._rates.get(key, (now, total, 0.0))
        if now - at >= 1.0:
            rate = max(total - before, 0) / (now - at)
            self._rates[key] = (now, total, rate)
        elif key not in self._rates:
            self._rates[key] = (now, total, 0.0)
        return rate

    def _components(self, parts: Mapping[str, Any], consumers: list[dict[str, Any]]) -> list[HealthComponent]:
        return [
            self._provider(parts),
            self._runtime(consumers),
            HealthComponent(name="websocket", state="healthy", detail=f"{self.ws_clients} clients"),
            self._feedback(),
            *self._rate_limits(),
            _store(consumers, parts.get("store", {})),
            _log(parts.get("log")),
        ]

    def _feedback(self) -> HealthComponent:
        bus = self._service.feedback
        if bus is None:
            return _component("feedback_bus", "healthy", "disabled")
        lost = f", {bus.dropped} events dropped" if bus.dropped else ""
        # Away, it costs news and nothing else: what is logged is stored all the same.
        return _component(
            "feedback_bus", "healthy" if bus.state == "connected" else "degraded", f"{bus.url} {bus.state}{lost}"
        )

    def _rate_limits(self) -> list[HealthComponent]:
        if self._limits is None or self._limits.state == "local":
            return []
        place = without_password(self._service.settings.redis_rate_limit_url)
        outage = self._limits.outage
        if outage is None:
            return [_component("rate_limits", "healthy", f"{place} shared")]
        since = datetime.fromtimestamp(outage.since_ns / NS_PER_SECOND, UTC).isoformat(timespec="seconds")
        # Away, it costs no request: each process goes on with what it has counted itself.
        said = f"{place} does not answer ({outage.cause}) since {since}: this process counts alone"
        return [_component("rate_limits", "degraded", said, cause=outage.cause, since=since)]

    def _provider(self, parts: Mapping[str, Any]) -> HealthComponent:
        name = self._service.provider
        source = parts.get("sources", {}).get(name)
        if self._service.paused:
            return _component("provider", "healthy", f"{name} paused")
        if source is None or source["state"] == "pending":
            return _component("provider", "degraded", f"{name}: no event yet")
        age_s = (self._service.clock.now_ns() - source["ts_recv"]) / 1e9
        if source["state"] == "failed":
            return _component("provider", "unhealthy", f"{name}: {source['problem']}")
        if source["state"] == "waiting":
            return _component("provider", "degraded", f"{name} is not taken from: {source['problem']}")
        if source["state"] == "live" and age_s > self._stale_s:
            return _component("provider", "degraded", f"{name}: no event for {age_s:.0f} s")
        return _component("provider", "healthy", f"{name} {source['state']}")

    def _runtime(self, consumers: list[dict[str, Any]]) -> HealthComponent:
        service = self._service
        if service.phase == "failed":
            return _component("runtime", "unhealthy", service.problem)
        if service.phase != "running":
            cause = f": {service.problem}" if service.problem else ""
            return _component("runtime", "degraded", f"{service.phase}{cause}")
        if service.engine is not None and service.engine.problem:
            return _component("runtime", "unhealthy", service.engine.problem)
        if not consumers:
            return _component("runtime", "degraded", "starting")
        for consumer in consumers:
            if consumer["unaccounted"]:
                return _component(
                    "runtime", "degraded", f"{consumer['unaccounted']} events unaccounted for in {consumer['name']}"
                )
        stuck = [c for c in consumers if c["node"] and time.time() - c["ts_node"] > _STUCK_S]
        if stuck:
            for_s = time.time() - stuck[0]["ts_node"]
            return _component(
                "runtime", "degraded", f"{stuck[0]['name']} has been in {stuck[0]['node']} for {for_s:.0f} s"
            )
        slow = [c for c in consumers if c["state"] in ("starting", "recovering")]
        if slow:
            return _component("runtime", "degraded", f"recovering: {slow[0]['name']} has {slow[0]['lag_events']} to go")
        return _component("runtime", "healthy", "running")

    def _attention(self) -> list[dict[str, Any]]:
        wrong = [c for c in self._health.components if c.state != "healthy"]
        names = {c.name for c in wrong}
        self._since = {n: at for n, at in self._since.items() if n in names}
        found = [
            {
                "severity": "bad" if c.state == "unhealthy" else "warn",
                "what": c.detail or c.state,
                "since_ts": self._since.setdefault(c.name, time.time()),
                "limit": None,
                "component": c.name,
            }
            for c in wrong
        ]
        return sorted(found, key=lambda a: (a["severity"] != "bad", a["since_ts"]))

    def _jobs(self) -> list[dict[str, Any]]:
        # Read by the service's own task, never here: this runs on the event loop.
        return self._service.jobs.recent if self._service.jobs is not None else []


def _component(name: str, state: HealthState, detail: str, **facts: str) -> HealthComponent:
    # The text stands in both places, because published clients look in either.
    return HealthComponent(name=name, state=state, detail=detail, details={"message": detail, **facts})


def _store(consumers: list[dict[str, Any]], store: Mapping[str, Any]) -> HealthComponent:
    for consumer in consumers:
        if consumer["problem"]:
            state: HealthState = "unhealthy" if consumer["state"] in ("conflict", "failed") else "degraded"
            return _component("store", state, f"{consumer['name']}: {consumer['problem']}")
    if store.get("problem"):
        return _component("store", "degraded", str(store["problem"]))
    return _component("store", "healthy", "committing")


def _log(log: Mapping[str, Any] | None) -> HealthComponent:
    if log is None:
        return _component("log", "degraded", "not open yet")
    if log["problem"]:
        return _component("log", "degraded", str(log["problem"]))
    return _component("log", "healthy", "durable")


def ledger_of(consumers: list[dict[str, Any]]) -> dict[str, int]:
    """Return the accounts of what was received: those of the consumer that stores it as it came.

    ``received = stored + absorbed + ... + in_flight + queued``. A consumer's counts are as of its last commit, and
    `queued` is what the log has had since. ``unaccounted`` is over all consumers.
    """
    raw = next((c for c in consumers if c["name"] == "raw"), None)
    if raw is None or not raw["nodes"]:
        return {}
    first, last = raw["nodes"][0], raw["nodes"][-1]
    totals = {cause: sum(node[cause] for node in raw["nodes"]) for cause in _CAUSES}
    # Quarantined events are stored too, as rows of their own table; they count once, as quarantined.
    quarantined = sum(node["quarantined"] for node in raw["nodes"])
    return {
        "received": first["received"] + raw["lag_events"],
        "stored": last["passed"] - quarantined,
        **totals,
        "queued": raw["lag_events"],
        "unaccounted": sum(c["unaccounted"] for c in consumers),
    }
