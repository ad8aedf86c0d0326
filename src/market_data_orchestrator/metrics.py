"""What the service tells Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from market_data_core.telemetry import BackpressureLevel
from market_data_orchestrator.status import StatusAggregator

_STATES = {"unhealthy": 0, "degraded": 1, "healthy": 2}
_CAUSES = (
    "passed", "absorbed", "filtered", "duplicate", "late", "suppressed", "quarantined", "failed",
)  # fmt: skip

_OUTCOMES = ("received", *_CAUSES, "emitted")


class ServiceMetrics(Collector):
    """Reads the figures when they are asked for, so counting costs the data path nothing.

    Args:
        registry: Where the families are registered.
        status: Where the figures come from.
        actions: Says how many control actions ended how, by action and status; none is known if None.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        status: StatusAggregator,
        *,
        actions: Callable[[], Mapping[tuple[str, str], int]] | None = None,
    ) -> None:
        self._status = status
        self._actions = actions or (dict)
        registry.register(self)

    def describe(self) -> Iterator[Metric]:
        """Name the families without asking for figures."""
        yield from self._families({})

    def collect(self) -> Iterator[Metric]:
        """Give all families with their figures of now."""
        yield from self._families(self._status.status())

    def _families(self, status: dict[str, Any]) -> Iterator[Metric]:
        values = _Values(status)
        yield _gauge("orchestrator_status", "2 healthy, 1 degraded, 0 unhealthy", values.health())
        yield _gauge("orchestrator_ws_clients", "WebSocket clients connected", values.number("ws_clients"))
        yield _gauge(
            "provider_connection_status", "1 while the provider delivers", float(values.provider_state() == "live")
        )
        events = CounterMetricFamily("pipeline_events", "Events appended to the log")
        events.add_metric([], sum(s["events"] for s in values.rows("sources")))
        yield events
        yield from self._said_and_done(values)
        refused = CounterMetricFamily(
            "mds_log_refused_events", "Live events for which the log had no room", labels=["source"]
        )
        rate = GaugeMetricFamily("mds_source_rate_ratio", "How fast a source may go, 0 to 1", labels=["source"])
        for source in values.rows("sources"):
            refused.add_metric([source["name"]], source["refused"])
            rate.add_metric([source["name"]], source["scale"])
        yield refused
        yield rate
        log = values.group("log")
        yield _gauge("mds_log_size_bytes", "Size of the log", float(log.get("size_bytes", 0)))
        yield _gauge("mds_log_pending_bytes", "Appended and not yet durable", float(log.get("pending_bytes", 0)))
        yield from _consumers(values.rows("consumers"))
        yield from _nodes(values.rows("consumers"))

    def _said_and_done(self, values: _Values) -> Iterator[Metric]:
        heard = CounterMetricFamily(
            "feedback_events", "What coordinators on the feedback bus said, by level", labels=["event_type"]
        )
        counts: dict[str, int] = {**dict.fromkeys(map(str, BackpressureLevel), 0), **values.group("feedback_events")}
        for level, count in counts.items():
            heard.add_metric([str(level)], count)
        failed = CounterMetricFamily(
            "mds_event_handler_errors", "Times a handler of events failed or took too long", labels=["handler"]
        )
        for handler, count in values.group("event_handler_errors").items():
            failed.add_metric([handler], count)
        done = CounterMetricFamily(
            "orchestrator_control_actions",
            "Control actions that ended, by what came of them",
            labels=["action", "status"],
        )
        for (action, status), count in self._actions().items():
            done.add_metric([action, status], count)
        yield from (heard, failed, done)


class _Values:
    # The status is a tree of plain values; before the start most of it is not there.
    def __init__(self, status: dict[str, Any]) -> None:
        self._status = status

    def number(self, name: str) -> float:
        value = self._status.get(name)
        return float(value) if isinstance(value, int | float) else 0.0

    def group(self, name: str) -> dict[str, Any]:
        value = self._status.get(name)
        return value if isinstance(value, dict) else {}

    def rows(self, name: str) -> list[dict[str, Any]]:
        value = self._status.get(name)
        return value if isinstance(value, list) else []

    def health(self) -> float:
        state = self.group("health").get("state")
        return float(_STATES[state]) if state else 0.0

    def provider_state(self) -> str:
        return str(self.group("provider").get("state", ""))


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)


def _consumers(consumers: list[dict[str, Any]]) -> Iterator[Metric]:
    received = CounterMetricFamily("mds_received_events", "Events handed to a node", labels=["consumer", "node"])
    ended = CounterMetricFamily("mds_ended_events", "What became of them", labels=["consumer", "node", "outcome"])
    emitted = CounterMetricFamily("mds_emitted_events", "Rows a node made", labels=["consumer", "node"])
    inside = GaugeMetricFamily("mds_in_flight_events", "Events held inside a node", labels=["consumer", "node"])
    lost = GaugeMetricFamily("mds_unaccounted_events", "Events nothing accounts for; must be 0", labels=["consumer"])
    lag = GaugeMetricFamily("mds_lag_events", "Logged and not yet stored", labels=["consumer"])
    restarts = CounterMetricFamily("mds_consumer_restarts", "Times a consumer began again", labels=["consumer"])
    for consumer in consumers:
        name = str(consumer["name"])
        lost.add_metric([name], consumer["unaccounted"])
        lag.add_metric([name], consumer["lag_events"])
        restarts.add_metric([name], consumer["restarts"])
        for node in consumer["nodes"]:
            received.add_metric([name, node["name"]], node["received"])
            emitted.add_metric([name, node["name"]], node["emitted"])
            inside.add_metric([name, node["name"]], node["in_flight"])
            for outcome in _CAUSES:
                ended.add_metric([name, node["name"], outcome], node[outcome])
    yield from (received, ended, emitted, inside, lost, lag, restarts)


def _nodes(consumers: list[dict[str, Any]]) -> Iterator[Metric]:
    # The whole ledger in one family, node by node, as `mdo top` and the graph in the cockpit show it.
    events = CounterMetricFamily(
        "pipeline_node_events", "Events by what a node did with them", labels=["consumer", "node", "outcome"]
    )
    inside = GaugeMetricFamily("pipeline_node_in_flight", "Events held inside a node", labels=["consumer", "node"])
    lag = GaugeMetricFamily("pipeline_consumer_lag_events", "Logged and not yet stored", labels=["consumer"])
    age = GaugeMetricFamily(
        "pipeline_consumer_commit_age_seconds", "Since the last commit; absent before the first", labels=["consumer"]
    )
    for consumer in consumers:
        name = str(consumer["name"])
        lag.add_metric([name], consumer["lag_events"])
        if consumer["commit_age_s"] is not None:
            age.add_metric([name], consumer["commit_age_s"])
        for node in consumer["nodes"]:
            inside.add_metric([name, node["name"]], node["in_flight"])
            for outcome in _OUTCOMES:
                events.add_metric([name, node["name"], outcome], node[outcome])
    yield from (events, inside, lag, age)
