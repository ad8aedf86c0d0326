"""``mdo status``: how a running service is."""

from __future__ import annotations

from typing import Annotated, Any

import httpx
import typer

from market_data_core.errors import TemporaryUnavailable
from market_data_orchestrator.cli.options import AsJson
from market_data_orchestrator.cli.output import FAILURE, print_facts, print_json, print_table, size
from market_data_orchestrator.settings import load_settings


def service_url(url: str | None) -> str:
    """Return the base URL of the service asked for, or of the one the settings name."""
    if url:
        return url.rstrip("/")
    settings = load_settings()
    scheme = "https" if settings.tls_cert else "http"
    host = "127.0.0.1" if settings.health_host in ("", "0.0.0.0", "::") else settings.health_host  # noqa: S104
    return f"{scheme}://{host}:{settings.health_port}"


def fetch_status(url: str) -> dict[str, Any]:
    """Return what a service says of itself.

    Raises:
        TemporaryUnavailable: Nobody answers there, or not as the service does.
    """
    try:
        response = httpx.get(f"{url}/status", timeout=5.0, trust_env=False)
        response.raise_for_status()
        return dict(response.json())
    except (httpx.HTTPError, ValueError) as exc:
        raise TemporaryUnavailable(f"no service answers at {url}: {exc}; start it with `mdo up`") from exc


def status(
    url: Annotated[str | None, typer.Option(envvar="ORCH_URL", help="Base URL of the service.")] = None,
    as_json: AsJson = False,
) -> int:
    """Show health with causes, sources, consumers and the ledger. The exit code is 1 unless it is healthy."""
    data = fetch_status(service_url(url))
    state = data["health"]["state"]
    if as_json:
        print_json(data)
        return 0 if state == "healthy" else FAILURE
    log, store = data["log"], data["store"]
    print_facts(
        {
            "service": f"{data['service']} {data['version']} on {data['node']}",
            "health": state,
            "running": f"{data['uptime_s']:.0f} s, {data['runtime']['state']}",
            "log": f"{size(log.get('size_bytes', 0))}, end {log.get('end', 0):,}",
            "store": f"{store['url']}, tenant {store['tenant']}",
        }
    )
    print_table(
        "",
        ["component", "state", "detail"],
        ([c["name"], c["state"], c["detail"]] for c in data["health"]["components"]),
    )
    print_table(
        "\nsources",
        ["name", "state", "events", "events/s", "age s"],
        ([s["name"], s["state"], s["events"], round(s["rate_events_s"]), _round(s["age_s"])] for s in data["sources"]),
    )
    print_table(
        "\nconsumers",
        ["name", "state", "lag", "events/s", "commit age s", "restarts", "unaccounted"],
        (
            [
                c["name"],
                c["state"],
                c["lag_events"],
                round(c["rate_events_s"]),
                _round(c["commit_age_s"]),
                c["restarts"],
                c["unaccounted"],
            ]
            for c in data["consumers"]
        ),
    )
    ledger = data["ledger"]
    print_table("\nledger", ["events", "count"], ledger.items())
    return 0 if state == "healthy" else FAILURE


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
