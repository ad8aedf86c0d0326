"""The ledger recounted from the log and the tables."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from market_data_core.errors import TemporaryUnavailable
from market_data_core.schemas import Kind
from market_data_pipeline.consumers import Ledger, Snapshot, read_snapshot
from market_data_pipeline.engine import EngineSettings
from market_data_pipeline.log import RecordType
from market_data_pipeline.log.segments import Damage, list_segments, walk
from market_data_pipeline.pipelines import RAW_KINDS
from market_data_store.query import QueryLimits, run_query

_LIMITS = QueryLimits(timeout_s=600.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One comparison.

    Attributes:
        consumer: Whose ledger.
        what: What was compared.
        ledger: What the ledger says.
        counted: What was counted.
    """

    consumer: str
    what: str
    ledger: int
    counted: int

    @property
    def agrees(self) -> bool:
        """True if both are the same."""
        return self.ledger == self.counted

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {**asdict(self), "agrees": self.agrees}


def audit_ledger(settings: EngineSettings) -> list[Check]:
    """Recount every consumer's ledger as of its last snapshot.

    Raises:
        TemporaryUnavailable: There is nothing to audit yet.
    """
    config = settings.consumers_config()
    folder = Path(config.folder)
    snapshots = {p.stem: read_snapshot(p) for p in sorted(folder.glob("*.snapshot"))}
    checks: list[Check] = []
    for name, snapshot in snapshots.items():
        if snapshot is None:
            continue
        ledger = Ledger.restored(snapshot.ledger, snapshot.flow)
        checks.append(Check(consumer=name, what="unaccounted for", ledger=ledger.unaccounted, counted=0))
        root, tenant = Path(config.store_root), config.tenant
        if name == "raw":
            checks += _raw(snapshot, root, tenant, Path(config.log_folder))
        elif name.startswith("bars-"):
            checks += _bars(name, snapshot, root, tenant)
    if not checks:
        raise TemporaryUnavailable(f"no consumer has saved its state in {folder} yet: nothing to audit")
    return checks


def _raw(snapshot: Snapshot, root: Path, tenant: str, log_folder: Path) -> list[Check]:
    tables = sorted(str(k) for k in RAW_KINDS)
    below = snapshot.position
    stored = sum(_count(root, tenant, t, f"seq < {below}{_external(t)}") for t in tables)
    checks = [
        Check(consumer="raw", what="rows in its tables", ledger=snapshot.ledger["store"]["passed"], counted=stored)
    ]
    ledger = snapshot.ledger["log"]
    segments = list_segments(log_folder)
    if not segments:
        return checks
    first = segments[0][0]
    logged = _logged(log_folder, below)
    if first == 0 and ledger["failed"] == 0:
        checks.append(Check(consumer="raw", what="events in the log", ledger=ledger["received"], counted=logged))
    elif ledger["duplicate"] == 0 and ledger["failed"] == 0:
        # Older segments are gone: what is left of the log against the rows of the same numbers.
        kept = sum(_count(root, tenant, t, f"seq >= {first} and seq < {below}{_external(t)}") for t in tables)
        checks.append(Check(consumer="raw", what=f"events in the log from seq {first}", ledger=kept, counted=logged))
    return checks


def _external(table: str) -> str:
    # Bars made here have numbers too, but were never received.
    return " and source = 'external'" if table == "bars" else ""


def _logged(folder: Path, below: int) -> int:
    events = 0
    for first, path in list_segments(folder):
        if first >= below:
            break
        for found in walk(path, check=False):
            if isinstance(found, Damage):
                continue
            _, record = found
            if record.type is RecordType.EVENTS and record.kind in RAW_KINDS and record.end <= below:
                events += record.count
    return events


def _bars(name: str, snapshot: Snapshot, root: Path, tenant: str) -> list[Check]:
    # Every event that went into a bar is in its count, and late ones are in the revision made for them.
    _, what, interval = name.split("-", 2)
    counts = next(counts for node, counts in snapshot.ledger.items() if node.startswith("bars"))
    sql = (  # names and numbers of our own, nothing a user said
        "select coalesce(sum(trade_count), 0) as n from ("  # noqa: S608
        "select trade_count, row_number() over (partition by vendor, symbol, ts_event order by revision desc) as place "
        f"from bars_revisions where source = 'internal' and what = '{what.upper()}' and interval = '{interval}' "
        f"and seq < {snapshot.position}) where place = 1"
    )
    counted = int(run_query(root, tenant, sql, limits=_LIMITS).table.column("n")[0].as_py())
    return [
        Check(
            consumer=name,
            what=f"{Kind.TRADES if what == 'trades' else Kind.QUOTES} in its bars",
            ledger=counts["absorbed"] + counts["late"],
            counted=counted,
        )
    ]


def _count(root: Path, tenant: str, table: str, where: str) -> int:
    name = "bars_revisions" if table == "bars" else table
    result = run_query(root, tenant, f"select count(*) as n from {name} where {where}", limits=_LIMITS)  # noqa: S608  own names and numbers
    return int(result.table.column("n")[0].as_py())
