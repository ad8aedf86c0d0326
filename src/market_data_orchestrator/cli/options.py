"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Where log, lake and state are kept [ORCH_DATA_DIR].", show_default=False),
]
Tenant = Annotated[str | None, typer.Option("--tenant", help="Whose tables [ORCH_TENANT_ID].", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
