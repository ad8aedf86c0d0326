"""``mdo up``: run the platform."""

from __future__ import annotations

from typing import Annotated

import typer

from market_data_orchestrator.cli.options import DataDir, Tenant
from market_data_orchestrator.cli.output import ERR


def up(
    provider: Annotated[
        str | None, typer.Option(help="Where market data comes from [ORCH_PROVIDER].", show_default=False)
    ] = None,
    symbols: Annotated[
        str | None, typer.Option(help="What to subscribe to, comma-separated [ORCH_SYMBOLS].", show_default=False)
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Address to serve on [ORCH_HEALTH_HOST].", show_default=False)
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port to serve on [ORCH_HEALTH_PORT].", show_default=False)] = None,
    log_format: Annotated[str | None, typer.Option(help="json or text [ORCH_LOG_FORMAT].", show_default=False)] = None,
    data_dir: DataDir = None,
    tenant: Tenant = None,
) -> int:
    """Take market data in, store it, and serve status and cockpit, until Ctrl-C.

    Without any setting it runs on synthetic data, in ./data/demo, and prints the cockpit's address.
    """
    # Imported here, so that other commands start without the web server.
    from market_data_orchestrator import launcher  # noqa: PLC0415
    from market_data_orchestrator.settings import load_settings  # noqa: PLC0415

    settings = load_settings(
        provider=provider,
        symbols=symbols,
        health_host=host,
        health_port=port,
        log_format=log_format,
        data_dir=data_dir,
        tenant_id=tenant,
    )

    def started(url: str) -> None:
        ERR.print(
            f"Cockpit: [bold]{url}[/bold]   provider {settings.provider}   data in {settings.data_path}", soft_wrap=True
        )
        ERR.print(
            'Ask it:  mdo query "select symbol, count(*) from trades group by symbol"   End: Ctrl-C', soft_wrap=True
        )

    def first_link(url: str) -> None:
        ERR.print(f"Sign in, once, within ten minutes: {url}", markup=False, highlight=False, soft_wrap=True)

    return launcher.run(settings, started=started, first_link=first_link)
