"""What a consumer is, when it commits, and how it says it is doing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from market_data_core.protocols import Operator, Store
from market_data_core.schemas import Kind
from market_data_pipeline.consumers.ledger import Edge, Ledger
from market_data_pipeline.writing.dead_letters import DeadLetters

LOG_NODE = "log"
STORE_NODE = "store"
CONFIGURATION = "configuration"
"""The control record from which another configuration holds; its ``change`` names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerSpec:
    """What a consumer does.

    Attributes:
        name: Names its position, snapshot and ledger; never to be given to another.
        kinds: What it reads from the log.
        operators: Makes its operators, in an order in which each stands behind those it takes from; called at every
            start.
        routes: Which table each kind of its output goes to; what has no route is suppressed.
        edges: The ways between the operators, from `LOG_NODE` to `STORE_NODE`; empty for a chain, in which what an
            operator does not work on goes past it. In a graph that is so where the operator gives what it is given;
            at any other such events are suppressed.
        config: Version of its configuration. Of a snapshot of another, the state of those operators is taken up whose
            own version is the same; the events that others held are counted as suppressed.
        versions: The version of each operator by its name; those that have none go with `config`.
        sink: Makes what takes its output, if that is not the platform's store.
    """

    name: str
    kinds: frozenset[Kind]
    operators: Callable[[], Sequence[Operator]]
    routes: Mapping[Kind, str]
    edges: tuple[Edge, ...] = ()
    config: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    sink: Callable[[], Store] | None = None

    def same_as(self, other: ConsumerSpec) -> bool:
        """Return whether both do the same."""
        return (self.name, self.config, self.kinds, self.edges) == (other.name, other.config, other.kinds, other.edges)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerSettings:
    """When a consumer commits.

    Attributes:
        commit_rows: At the latest with so many rows waiting,
        commit_bytes: so many bytes,
        commit_s: or after so long since the first of them,
        commit_max_s: which grows to this where commits are slow, to four times what a commit takes.
        side_by_side_rows: From so many rows on a commit's tables are sorted and encoded side by side, and the log is
            read on meanwhile.
        snapshot_s: How often the state is saved; bounds what a restart reads again.
        poll_s: How often the log is looked at while nothing comes.
        retry_s: How long to wait after a failure, at most; doubles with every further one, up to `retry_max_s`.
    """

    commit_rows: int = 256 * 1024
    commit_bytes: int = 128 << 20
    commit_s: float = 1.0
    commit_max_s: float = 10.0
    side_by_side_rows: int = 65_536
    snapshot_s: float = 5.0
    poll_s: float = 0.02
    retry_s: float = 0.2
    retry_max_s: float = 5.0


@dataclass(slots=True)
class ConsumerStatus:
    """How a consumer is doing.

    Attributes:
        state: ``starting``, ``recovering`` (reading again what it had read before), ``running``, ``retrying``,
            ``failed`` (tried again still, but the same error comes every time), ``stopped`` or ``conflict``.
        problem: Why it is not running; empty when it is.
        position: Exclusive end of what has gone through its operators.
        committed: Exclusive end of what is in its tables.
        snapshot: Position of its snapshot; the log below may go.
        commits: How many.
        commit_s: How long the last one took.
        ts_committed: When the last one was, seconds since the epoch.
        restarts: How often it began again after a failure.
        reports: One sentence for everything that was not as it should be.
        dead_letters: How many rows its tables refused since it was started; they are set aside, and counted as failed.
        own_sink: Whether its output goes elsewhere than to the platform's store.
        node: The operator or sink at work, empty between two spans,
        ts_node: and since when, seconds since the epoch.
    """

    state: str = "starting"
    problem: str = ""
    position: int = 0
    committed: int = 0
    snapshot: int = 0
    commits: int = 0
    commit_s: float = 0.0
    ts_committed: float = 0.0
    restarts: int = 0
    reports: list[str] = field(default_factory=list)
    dead_letters: int = 0
    own_sink: bool = False
    node: str = ""
    ts_node: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What one life of a consumer is given.

    Attributes:
        spec: What it does.
        settings: When it commits.
        log_folder: The log to read.
        store: Where its tables are.
        letters: Where rows go that its tables refuse.
        snapshot_path: Where its state is kept.
        durable: Says how far the log may be read; None to ask the log's folder.
        status: Where it says how it is.
        abort: Set when it must end at once.
        stopping: Says whether it may end, having come to a position.
        awaited: Says up to which position somebody waits for it to commit.
        ends_at: Says whether it ends at the record of a change.
        publish: Takes the ledger's counts of one moment.
    """

    spec: ConsumerSpec
    settings: ConsumerSettings
    log_folder: Path
    store: Store
    letters: DeadLetters
    snapshot_path: Path
    durable: Callable[[], int] | None
    status: ConsumerStatus
    abort: threading.Event
    stopping: Callable[[int], bool]
    awaited: Callable[[], int]
    ends_at: Callable[[str], bool]
    publish: Callable[[Ledger], None]
