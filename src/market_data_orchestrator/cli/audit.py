"""``mdo audit``: proofs that nothing was lost, doubled or changed."""

from __future__ import annotations

import typer

from market_data_orchestrator.audit.ledger import audit_ledger
from market_data_orchestrator.cli import audit_verify
from market_data_orchestrator.cli.options import AsJson, DataDir, Tenant
from market_data_orchestrator.cli.output import FAILURE, OUT, print_json, print_table
from market_data_orchestrator.composition import engine_settings, load

app = typer.Typer(no_args_is_help=True, help="Prove that nothing was lost, doubled or changed.")


@app.callback()
def _group() -> None:
    """Prove that nothing was lost, doubled or changed."""


app.command("verify")(audit_verify.verify)
app.command("rotate-key")(audit_verify.rotate_key)


@app.command("ledger")
def ledger(as_json: AsJson = False, data_dir: DataDir = None, tenant: Tenant = None) -> int:
    """Recount every consumer's accounts from log and tables. The exit code is 1 unless all of them agree.

    Works beside a running service: it counts what lies below each consumer's last snapshot.
    """
    settings, config = load(data_dir=data_dir, tenant_id=tenant)
    checks = audit_ledger(engine_settings(settings, config))
    ok = all(check.agrees for check in checks)
    if as_json:
        print_json({"agrees": ok, "checks": [check.as_dict() for check in checks]})
    else:
        print_table(
            "",
            ["consumer", "what", "in the ledger", "recounted", "agrees"],
            ([c.consumer, c.what, c.ledger, c.counted, c.agrees] for c in checks),
        )
        OUT.print("the ledger balances" if ok else "the ledger does NOT balance", style="bold" if ok else "bold red")
    return 0 if ok else FAILURE
