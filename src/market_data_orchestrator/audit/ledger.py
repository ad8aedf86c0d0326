"""The ledger recounted from the log and the tables."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from market_data_core.errors import TemporaryUnavailable
from market_data_core.schemas import Kind
from market_data_pipeline.consumers import Ledger, Snapshot, read_snapshot
from market_data_pipeline.dag import GraphSpec
from market_data_pipeline.dag.own import make_bars
from market_data_pipeline.engine import EngineSettings
from market_data_pipeline.log import RecordType
from market_data_pipeline.log.segments import Damage, list_segments, walk
from market_data_pipeline.pipelines import RAW_KINDS
from market_data_pipeline.writing.dead_letters import DeadLetters
from market_data_pipeline.writing.replay import replayed
from market_data_store.query import QueryLimits, place_of, run_query

_BARS = frozenset({"bars", "resample_ohlc"})
_LIMITS = QueryLimits(timeout_s=600.0)
# Bars made here have numbers too, but were never received.
_FROM = {"bars": "(select seq from bars_revisions where source = 'external') as received"}


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
    found = {p: read_snapshot(p) for p in sorted(folder.glob("*.snapshot"))}
    snapshots = {path.stem: snapshot for path, snapshot in found.items() if snapshot is not None}
    gone = [snapshot for p in folder.glob("*.removed") if (snapshot := read_snapshot(p)) is not None]
    series = _series(settings)
    checks: list[Check] = []
    for name, snapshot in snapshots.items():
        ledger = Ledger.restored(snapshot.ledger, snapshot.flow)
        checks.append(Check(consumer=name, what="unaccounted for", ledger=ledger.unaccounted, counted=0))
        root, tenant = place_of(config.store_root), config.tenant
        if name == "raw":
            others = [*(s for n, s in snapshots.items() if n != name), *gone]
            shared = {table for s in others for table, rows in s.stored.items() if rows}
            checks += _raw(snapshot, shared, settings)
        elif name in series:
            checks += _bars(name, series[name], snapshot, root, tenant)
    if not checks:
        raise TemporaryUnavailable(f"no consumer has saved its state in {folder} yet: nothing to audit")
    return checks


@dataclass(frozen=True, slots=True, kw_only=True)
class _Series:
    # One series of bars, and the node that makes it.
    node: str
    interval: str
    what: str


# By consumer, which bars it stores, where those are all that it stores.
def _series(settings: EngineSettings) -> dict[str, _Series]:
    if not settings.graph:
        return {b.consumer: _Series(node="bars", interval=b.interval, what=b.what) for b in settings.bars}
    graph, found = GraphSpec.from_json(settings.graph), {}
    for sink in graph.of("sink"):
        senders = [graph.node(edge.sender) for edge in graph.into(sink.name)]
        if len(senders) == 1 and senders[0].type in _BARS:
            params = senders[0].params
            made = make_bars(interval=params.get("interval", "1m"), what=params.get("what", "TRADES"))
            found[sink.name] = _Series(node=senders[0].name, interval=made.interval, what=made.what)
    return found


def _raw(snapshot: Snapshot, shared: AbstractSet[str], settings: EngineSettings) -> list[Check]:
    config = settings.consumers_config()
    root, tenant, log_folder = place_of(config.store_root), config.tenant, Path(config.log_folder)
    # Rows do not say who stored them: of a table that others store in too, nothing can be said here. The bars of others
    # are told apart by their source.
    tables = sorted(str(k) for k in RAW_KINDS if k is Kind.BARS or str(k) not in shared)
    below = snapshot.position
    stored = _count(root, tenant, tables, f"seq < {below}")
    said = sum(snapshot.stored.get(t, 0) for t in tables)
    # Refused rows that were put in again are accounted for as failed, and are in the tables all the same.
    letters = DeadLetters(settings.data_dir / "dead_letters")
    again = sum(replayed(letters, t).get("raw", 0) for t in tables)
    checks = [Check(consumer="raw", what="rows in its tables", ledger=said + again, counted=stored)]
    if shared & {str(Kind.QUOTES), str(Kind.TRADES), str(Kind.QUARANTINE)}:
        return checks
    ledger = snapshot.ledger["log"]
    segments = list_segments(log_folder)
    if not segments:
        return checks
    first = segments[0][0]
    logged = _logged(log_folder, below, frozenset(map(Kind, tables)))
    if first == 0 and ledger["failed"] == 0:
        events = ledger["received"] if len(tables) == len(RAW_KINDS) else said
        checks.append(Check(consumer="raw", what="events in the log", ledger=events, counted=logged))
    elif ledger["duplicate"] == 0 and ledger["failed"] == 0:
        # Older segments are gone: what is left of the log against the rows of the same numbers.
        kept = _count(root, tenant, tables, f"seq >= {first} and seq < {below}")
        checks.append(Check(consumer="raw", what=f"events in the log from seq {first}", ledger=kept, counted=logged))
    return checks


def _logged(folder: Path, below: int, kinds: frozenset[Kind]) -> int:
    events = 0
    for first, path in list_segments(folder):
        if first >= below:
            break
        for found in walk(path, check=False):
            if isinstance(found, Damage):
                continue
            _, record = found
            if record.type is RecordType.EVENTS and record.kind in kinds and record.end <= below:
                events += record.count
    return events


def _bars(name: str, series: _Series, snapshot: Snapshot, root: Path | str, tenant: str) -> list[Check]:
    # Every event that went into a bar is in its count, and late ones are in the revision made for them.
    what, interval = series.what, series.interval
    counts = snapshot.ledger.get(series.node)
    if counts is None or counts["carried"]:
        return []  # its accounts are those of a later configuration than the first bars
    sql = (  # names and numbers of our own, nothing a user said
        "select coalesce(sum(trade_count), 0) as n from ("  # noqa: S608
        "select trade_count, row_number() over (partition by vendor, symbol, ts_event order by revision desc) as place "
        f"from bars_revisions where source = 'internal' and what = '{what}' and interval = '{interval}' "
        f"and seq < {snapshot.position}) as versions where place = 1"
    )
    counted = int(run_query(root, tenant, sql, limits=_LIMITS).table.column("n")[0].as_py())
    return [
        Check(
            consumer=name,
            what=f"{Kind.TRADES if what == 'TRADES' else Kind.QUOTES} in its bars",
            ledger=counts["absorbed"] + counts["late"],
            counted=counted,
        )
    ]


def _count(root: Path | str, tenant: str, tables: Sequence[str], where: str) -> int:
    if not tables:
        return 0
    # Own names and numbers alone. One query: each is a process of its own.
    counts = " union all ".join(f"select count(*) as n from {_FROM.get(t, t)} where {where}" for t in tables)  # noqa: S608
    sql = f"select cast(sum(n) as bigint) as n from ({counts}) as counts"  # noqa: S608
    result = run_query(root, tenant, sql, limits=_LIMITS)
    return int(result.table.column("n")[0].as_py())
