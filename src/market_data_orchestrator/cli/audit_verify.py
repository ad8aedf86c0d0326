"""``mdo audit verify`` and ``rotate-key``: is the audit trail as it was written, and who signs it?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from market_data_orchestrator.audit.checkpoints import rotate
from market_data_orchestrator.audit.logger import KEYS_FILE, AuditLogger, logger_of
from market_data_orchestrator.audit.verify import Verdict
from market_data_orchestrator.cli.options import AsJson, DataDir
from market_data_orchestrator.cli.output import FAILURE, OUT, print_facts, print_json
from market_data_orchestrator.settings import load_settings
from market_data_store.state import State

AuditLog = Annotated[
    Path | None,
    typer.Option(
        "--audit-log", help="The audit file; rotated ones lie beside it [ORCH_AUDIT_LOG_PATH].", show_default=False
    ),
]


def verify(as_json: AsJson = False, data_dir: DataDir = None, audit_log: AuditLog = None) -> int:
    """Read the whole audit trail from its files. The exit code is 1 unless every record is as it was written.

    Needs no running service, and works beside one.
    """
    settings = load_settings(data_dir=data_dir, audit_log_path=audit_log)
    path = settings.state_path
    # Looking must not make a state file where there is none.
    state = State(path) if path.is_file() else None
    try:
        logger = logger_of(settings, state)
        verdict = logger.verify()
    finally:
        if state is not None:
            state.close()
    if as_json:
        print_json(verdict.as_dict())
    else:
        _show(logger, verdict)
    return 0 if verdict.ok else FAILURE


def rotate_key(data_dir: DataDir = None) -> int:
    """Make a new key to sign the audit trail with, from the service's next start on; what older keys signed holds."""
    settings = load_settings(data_dir=data_dir)
    path = settings.data_path / KEYS_FILE
    keys = rotate(path)
    OUT.print(f"{path}: {len(keys.public)} keys, the newest signs", markup=False, highlight=False, soft_wrap=True)
    return 0


def _show(logger: AuditLogger, verdict: Verdict) -> None:
    print_facts(
        {
            "log": str(logger.path),
            "files": verdict.files,
            "records": verdict.records,
            "checkpoints": verdict.checkpoints,
            "behind the last checkpoint": verdict.unsigned,
            "last record": f"{verdict.head.seq}  {verdict.head.hash}" if verdict.records else None,
            "compared with the noted end": verdict.compared,
            "torn bytes at the end": verdict.torn_bytes,
        }
    )
    bad = verdict.bad
    if bad is None:
        OUT.print("the audit trail is whole", style="bold")
        return
    OUT.print("the audit trail is NOT whole", style="bold red")
    OUT.print(f"{bad.file}:{bad.line}: record {bad.seq}: {bad.why}", markup=False, highlight=False, soft_wrap=True)
