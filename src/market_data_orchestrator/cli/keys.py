"""``mdo keys``: who may call the service."""

from __future__ import annotations

from typing import Annotated

import typer

from market_data_core.web.auth import KeyStore, Role
from market_data_orchestrator.cli.options import AsJson, DataDir
from market_data_orchestrator.cli.output import ERR, OUT, print_json, print_table
from market_data_orchestrator.settings import load_settings

app = typer.Typer(
    no_args_is_help=True,
    help="Make, list and revoke API keys. A running service takes changes up at once, without a restart.",
)
_Name = Annotated[str, typer.Argument(help="Names the key's holder in logs and audit.")]


@app.command("add")
def add(
    name: _Name,
    role: Annotated[Role, typer.Option(help="What its holder may do: look, operate, or everything.")] = Role.VIEWER,
    as_json: AsJson = False,
    data_dir: DataDir = None,
) -> int:
    """Make a key and show it, this once: only its hash is kept."""
    key = _store(data_dir).add(name, role)
    if as_json:
        print_json({"name": name, "role": str(role), "key": key})
    else:
        OUT.print(key, markup=False, highlight=False, soft_wrap=True)
        ERR.print(f"The key of {name}, {role}. It is not shown again; send it as X-API-Key.", highlight=False)
    return 0


@app.command("list")
def list_(as_json: AsJson = False, data_dir: DataDir = None) -> int:
    """List the keys there are, without the keys."""
    found = _store(data_dir).list()
    if as_json:
        print_json([{"name": k.name, "role": str(k.role)} for k in found])
    else:
        print_table("", ["name", "role"], [(k.name, str(k.role)) for k in found])
    return 0


@app.command("revoke")
def revoke(name: _Name, data_dir: DataDir = None) -> int:
    """Take a key back; whoever holds it is refused from now on."""
    _store(data_dir).revoke(name)
    OUT.print(f"The key of {name} is revoked.", highlight=False)
    return 0


def _store(data_dir: DataDir) -> KeyStore:
    return KeyStore(load_settings(data_dir=data_dir).keys_path)
