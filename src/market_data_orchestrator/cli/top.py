"""``mdo top``: a running service at a glance, what needs attention first."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Final

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from market_data_core.errors import ConfigurationError, TemporaryUnavailable
from market_data_orchestrator.cli.lines import moment
from market_data_orchestrator.cli.options import AsJson
from market_data_orchestrator.cli.output import OUT, print_json, size, text
from market_data_orchestrator.cli.status import fetch_status, service_url
from market_data_pipeline.dag import duration_ns

_FINE, _LOOK, _WARN, _BAD = range(4)
_GLYPHS: Final = ("●", "◇", "◆", "■")
_STYLES: Final = ("", "", "yellow", "bold red")
_WINDOW_S: Final = 5.0
_STALE_S: Final = 10.0
_LATE_COMMIT_S: Final = 30.0
_LONG_WORK_S: Final = 10.0
# Nobody reads faster than this, and the service's answer is good for 0.2 s anyway.
_SHORTEST_S: Final = 0.2
# Of what is no terminal nobody knows how wide it is; tables are as wide as they need to be.
_PLAIN_WIDTH: Final = 240
_SET_ASIDE: Final = ("filtered", "duplicate", "suppressed")

_SOURCES: Final = ("name", "state", "rate_events_s", "events", "age_s", "refused", "scale")
_CONSUMERS: Final = (
    "name", "state", "rate_events_s", "lag_events", "waiting_events", "commit_age_s", "restarts", "unaccounted",
)  # fmt: skip
_NODES: Final = (
    "name", "rate_events_s", "received", "in_flight", "late", "quarantined", "failed", "set_aside",
)  # fmt: skip
_TITLES: Final[Mapping[str, str]] = {
    "rate_events_s": "events/s",
    "age_s": "age s",
    "scale": "speed",
    "lag_events": "lag",
    "waiting_events": "waiting",
    "commit_age_s": "commit age s",
    "in_flight": "inside",
    "set_aside": "set aside",
}


def top(
    url: Annotated[str | None, typer.Option(envvar="ORCH_URL", help="Base URL of the service.")] = None,
    interval: Annotated[str, typer.Option(metavar="TIME", help="Between two looks.")] = "1s",
    once: Annotated[
        bool, typer.Option("--once", help="Print once and end; so too where output is no terminal.")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Show sources, consumers and nodes of a running service, what needs attention first, until Ctrl-C.

    lag is logged and not yet stored, waiting is to be committed next, inside is held by an operator, set aside is
    filtered, duplicate or suppressed. Rates of nodes need two looks, so --once has none. --json prints one JSON value,
    once. Where no service answers, --once ends with 1; otherwise it is waited for.

    Example: mdo top --once
    """
    interval_s = duration_ns(interval) / 1e9
    if interval_s < _SHORTEST_S:
        raise ConfigurationError(f"--interval {interval} is below {_SHORTEST_S} s")
    address = service_url(url)
    if as_json:
        print_json(Overview().of(fetch_status(address)))
    elif once or not OUT.is_terminal:
        view = _view(Overview().of(fetch_status(address)), address)
        console = OUT if OUT.is_terminal else Console(file=OUT.file, width=_PLAIN_WIDTH)
        console.print(view)
    else:
        _watch(address, interval_s)
    return 0


def _watch(address: str, interval_s: float) -> None:
    overview = Overview()
    found: dict[str, Any] | None = None
    away = ""
    try:
        with Live(console=OUT, screen=True, auto_refresh=False) as live:
            while True:
                try:
                    found, away = overview.of(fetch_status(address)), ""
                except TemporaryUnavailable as exc:
                    # What was seen last stays, and says how old it is.
                    away = away or f"since {moment(time.time_ns())}: {exc}"
                live.update(_view(found, address, away), refresh=True)
                time.sleep(interval_s)
    except KeyboardInterrupt:
        return


class Overview:
    """Makes of one look after the other what is to be seen: rows by how much they need attention, rates of nodes."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], deque[tuple[float, int]]] = {}

    def of(self, status: Mapping[str, Any]) -> dict[str, Any]:
        """Return the overview of a service's status, as plain values.

        Rows have ``level`` (0 fine, 1 worth a look, 2 warning, 3 bad) and ``why``, the cause in words; the highest
        level comes first, then the service's own order.

        Raises:
            TemporaryUnavailable: This is no status of this service.
        """
        try:
            consumers = [_consumer(c, status["ts"]) for c in status["consumers"]]
            nodes = [self._node(c["name"], n, status["ts"]) for c in status["consumers"] for n in c["nodes"]]
            return {
                "ts": status["ts"],
                "service": f"{status['service']} {status['version']} on {status['node']}",
                "health": status["health"]["state"],
                "uptime_s": status["uptime_s"],
                "log": {k: status["log"].get(k) for k in ("end", "size_bytes", "pending_bytes", "problem")},
                "sources": _sorted(_source(s) for s in status["sources"]),
                "consumers": _sorted(consumers),
                "nodes": _sorted(nodes),
            }
        except (KeyError, TypeError, AttributeError) as exc:
            raise TemporaryUnavailable(f"what answers is not this version of the service: {exc!r} in /status") from exc

    def _node(self, consumer: str, node: Mapping[str, Any], ts: float) -> dict[str, Any]:
        level, why = _FINE, list[str]()
        for outcome, its_level in (("late", _LOOK), ("quarantined", _LOOK), ("failed", _WARN), ("unaccounted", _BAD)):
            if node[outcome]:
                level, why = its_level, [outcome, *why]
        return {
            "level": level,
            "why": ", ".join(why),
            "name": f"{consumer}/{node['name']}",
            "consumer": consumer,
            "node": node["name"],
            "rate_events_s": self._rate((consumer, node["name"]), ts, node["received"]),
            "set_aside": sum(node[outcome] for outcome in _SET_ASIDE),
            **{k: v for k, v in node.items() if k != "name"},
        }

    # Counts come with commits, about once a second: over a few seconds they are a rate and no pulse.
    def _rate(self, key: tuple[str, str], ts: float, received: int) -> float | None:
        seen = self._seen.setdefault(key, deque())
        if seen and received < seen[-1][1]:
            seen.clear()  # a new life of the service counts from its last snapshot
        seen.append((ts, received))
        while len(seen) > 2 and ts - seen[1][0] >= _WINDOW_S:
            seen.popleft()
        passed_s = ts - seen[0][0]
        return (received - seen[0][1]) / passed_s if passed_s > 0 else None


def _sorted(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: -row["level"])


def _source(source: Mapping[str, Any]) -> dict[str, Any]:
    level, why = _FINE, list[str]()
    age_s = source["age_s"]
    if source["refused"]:
        level, why = _WARN, ["events refused"]
    if source["state"] == "live" and age_s is not None and age_s > _STALE_S:
        level, why = _WARN, [*why, f"no event for {age_s:.0f} s"]
    if source["state"] in ("waiting", "pending"):
        level = max(level, _WARN)
    if source["state"] == "failed":
        level = _BAD
    if source["problem"]:
        level, why = max(level, _WARN), [source["problem"], *why]
    names = ("name", "state", "rate_events_s", "events", "age_s", "refused", "scale")
    return {"level": level, "why": "; ".join(why), **{name: source[name] for name in names}}


def _consumer(consumer: Mapping[str, Any], ts: float) -> dict[str, Any]:
    level, why = _FINE, list[str]()
    if consumer["problem"]:
        level, why = _WARN, [consumer["problem"]]
    if consumer["state"] != "running":
        level = _BAD if consumer["state"] in ("conflict", "failed") else _WARN
    commit_age_s = consumer["commit_age_s"]
    if consumer["lag_events"] and commit_age_s is not None and commit_age_s > _LATE_COMMIT_S:
        level, why = max(level, _WARN), [*why, f"no commit for {commit_age_s:.0f} s"]
    if consumer["node"] and ts - consumer["ts_node"] > _LONG_WORK_S:
        level, why = max(level, _WARN), [*why, f"{consumer['node']} at work for {ts - consumer['ts_node']:.0f} s"]
    if consumer["unaccounted"]:
        level, why = _BAD, ["events unaccounted for", *why]
    names = ("name", "state", "rate_events_s", "lag_events", "commit_age_s", "commit_s", "restarts", "unaccounted")
    waiting = consumer["nodes"][-1]["in_flight"] if consumer["nodes"] else 0
    found = {"level": level, "why": "; ".join(why), **{name: consumer[name] for name in names}}
    return {**found, "waiting_events": waiting}


def _view(found: Mapping[str, Any] | None, address: str, away: str = "") -> RenderableType:
    parts: list[RenderableType] = []
    if away:
        parts.append(Text(f"{_GLYPHS[_BAD]} {away}", style=_STYLES[_BAD]))
    if found is None:
        return Group(*parts)
    log = found["log"]
    parts += [
        Text(
            f"{found['service']}   {address}   {found['health']}   up {found['uptime_s']:.0f} s   "
            f"{moment(int(found['ts'] * 1e9))[:19]} UTC"
        ),
        Text(
            f"log: end {log['end'] or 0:,}, {size(log['size_bytes'] or 0)}, "
            f"{size(log['pending_bytes'] or 0)} not yet durable" + (f"; {log['problem']}" if log["problem"] else "")
        ),
    ]
    tables = (("sources", _SOURCES), ("consumers", _CONSUMERS), ("nodes", _NODES))
    wrong = [(title[:-1], row) for title, _ in tables for row in found[title] if row["why"] and row["level"] >= _WARN]
    for what, row in sorted(wrong, key=lambda pair: -pair[1]["level"]):
        parts.append(Text(f"{_GLYPHS[row['level']]} {what} {row['name']}: {row['why']}", style=_STYLES[row["level"]]))
    for title, columns in tables:
        parts += [Text(""), _table(title, columns, found[title], dimmed=bool(away))]
    return Group(*parts)


def _table(title: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]], *, dimmed: bool) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("")
    for name in columns:
        heading = title if name == "name" else _TITLES.get(name, name)
        left = name in ("name", "state")
        # Where there is no room names give way, figures do not.
        table.add_column(heading, justify="left" if left else "right", no_wrap=not left, overflow="ellipsis")
    for row in rows:
        style = "dim" if dimmed else _STYLES[row["level"]]
        # Text and not markup: causes repeat what others said.
        table.add_row(_GLYPHS[row["level"]], *(Text(_written(name, row[name])) for name in columns), style=style)
    return table


def _written(name: str, value: Any) -> str:
    if value is None or isinstance(value, str):
        return value if value is not None else "-"
    if name in ("rate_events_s", "scale") or name.endswith("_s"):
        return f"{value:,.0f}" if name == "rate_events_s" else f"{value:.1f}"
    return text(value)
