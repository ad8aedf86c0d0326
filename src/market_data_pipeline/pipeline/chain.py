"""What happens to events between source and sink: engine operators over batches, then users' steps event by event."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel

from market_data_core.batch import EventBatch, SourceBatch
from market_data_core.clock import Clock
from market_data_core.errors import ConfigurationError, TransformError, ValidationError
from market_data_core.models import Bar, Quote, Trade
from market_data_core.protocols import Gap, Mark, Operator
from market_data_core.schemas import Kind, Origin
from market_data_pipeline.consumers.ledger import Ledger, NodeCounts
from market_data_pipeline.events import iter_events
from market_data_pipeline.pipeline.columns import Columns, is_operator

OnError = Literal["skip", "stop"]
SOURCE, EVENTS, QUEUE, SINK = "source", "events", "queue", "sink"
_VALUE_KINDS = frozenset({Kind.QUOTES, Kind.TRADES, Kind.BARS})
_KEPT_FAILURES = 100
_TEXT_LENGTH = 300

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An event that a step could not deal with.

    Attributes:
        node: The step.
        event: The event as text, cut to 300 characters.
        error: What the step said.
    """

    node: str
    event: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """The steps of a pipeline.

    Attributes:
        operators: Over batches; they come first.
        transforms: Event by event, objects with ``process``.
        kinds: What the operators are given; None for all. The rest counts as filtered.
        out_kinds: What they hand on; None for all. The rest counts as suppressed.
    """

    operators: tuple[Operator, ...] = ()
    transforms: tuple[Any, ...] = ()
    kinds: frozenset[Kind] | None = None
    out_kinds: frozenset[Kind] | None = None

    @classmethod
    def of(cls, steps: Sequence[Any]) -> Steps:
        """Sort steps into operators and transforms.

        Raises:
            ConfigurationError: One is neither, or an operator over batches follows a per-event step.
        """
        operators: list[Operator] = []
        transforms: list[Any] = []
        for step in steps:
            name = type(step).__name__
            if isinstance(step, type) or not callable(getattr(step, "process", None)):
                raise ConfigurationError(f"operator: {step!r} is no object with a method process")
            if not is_operator(step):
                transforms.append(step)
            elif transforms:
                raise ConfigurationError(f"operator: {name} works on batches and must stand before per-event steps")
            else:
                operators.append(step)
        return cls(operators=tuple(operators), transforms=tuple(transforms))


class Chain:
    """Runs the steps and keeps the accounts.

    Args:
        steps: What is run.
        origin: How the source's events come to us.
        vendor: Of events that do not say whose they are.
        clock: Stamps arrivals.
        on_error: ``skip`` counts an event that a per-event step could not deal with as failed and goes on; ``stop``
            ends the run with TransformError. An operator over batches that fails always ends the run.
    """

    def __init__(self, steps: Steps, *, origin: Origin, vendor: str, clock: Clock, on_error: OnError) -> None:
        operators, self._out_kinds = steps.operators, steps.out_kinds or _VALUE_KINDS
        reserved = [SOURCE, EVENTS] if operators else [SOURCE]
        names = _unique([*reserved, *(o.name for o in operators), *map(_name, steps.transforms), QUEUE, SINK])
        of_operators = names[len(reserved) : len(reserved) + len(operators)]
        of_transforms = names[len(reserved) + len(operators) : -2]
        self.ledger = Ledger((SOURCE, *of_operators, *reserved[1:], *of_transforms, names[-2], names[-1]))
        self.queue_node, self.sink_node = self.ledger[names[-2]], self.ledger[names[-1]]
        self.failures: deque[Failure] = deque(maxlen=_KEPT_FAILURES)
        self._on_error = on_error
        self._problem: TransformError | None = None
        self._transforms = [(t, n, self.ledger[n]) for t, n in zip(steps.transforms, of_transforms, strict=True)]
        self._source = self.ledger[SOURCE]
        self.columns = (
            Columns(
                operators,
                [self.ledger[n] for n in of_operators],
                origin=origin,
                vendor=vendor,
                clock=clock,
                kinds=steps.kinds,
                source=self._source,
            )
            if operators
            else None
        )

    @property
    def problem(self) -> TransformError | None:
        """What ends the run; what had come through before stands."""
        return self._problem or (self.columns.problem if self.columns is not None else None)

    async def take(self, item: Any) -> list[Any]:
        """Take a batch, a mark or one value from the source; return the values that have come through."""
        if isinstance(item, Gap):
            return []  # nothing that steps or sinks could work on
        if self.columns is None:
            self._source.received += 1
            self._source.passed += 1
            return await self._transformed([item])
        if isinstance(item, SourceBatch | Mark):
            return await self._viewed(self.columns.take(item))
        if not isinstance(item, Quote | Trade | Bar):
            self._source.received += 1
            self._failed(
                SOURCE, self._source, item, ValidationError(f"{type(item).__name__} is no quote, trade or bar")
            )
            return []
        self.columns.take_event(item)
        return []

    async def barrier(self) -> list[Any]:
        """Return the values that are due by now, such as bars that have closed."""
        if self.columns is None:
            return []
        return await self._viewed(self.columns.barrier())

    def idle(self, now_ns: int) -> None:
        """Let quiet windows of a live source close at the next barrier; `now_ns` is the present, UTC nanoseconds."""
        if self.columns is not None:
            self.columns.idle(now_ns)

    async def end(self) -> list[Any]:
        """Return what is left: the source has no more, and all windows close."""
        if self.columns is None:
            return []
        return await self._viewed(self.columns.end())

    async def _viewed(self, batches: Iterable[EventBatch]) -> list[Any]:
        node = self.ledger[EVENTS]
        values: list[Any] = []
        for batch in batches:
            node.received += len(batch)
            events = list(iter_events(batch)) if batch.kind in self._out_kinds else []
            node.passed += len(events)
            node.suppressed += len(batch) - len(events)
            values += events
        return await self._transformed(values)

    # Cancelled in the middle of a step, what it leaves undone is counted before the cancellation goes on.
    async def _transformed(self, values: list[Any]) -> list[Any]:
        cancelled: asyncio.CancelledError | None = None
        for transform, name, node in self._transforms:
            out: list[Any] = []
            for value in values:
                node.received += 1
                if self._problem is not None or cancelled is not None:
                    node.suppressed += 1
                    continue
                try:
                    made = await _process(transform, value)
                except asyncio.CancelledError as exc:
                    node.suppressed += 1
                    cancelled = exc
                    continue
                except Exception as exc:  # noqa: BLE001  the supervisor of users' steps: counted, kept, and told
                    self._failed(name, node, value, exc)
                    continue
                passed = int(any(m is value for m in made))
                node.passed += passed
                node.emitted += len(made) - passed
                if not made:
                    node.filtered += 1
                elif not passed:
                    node.absorbed += 1
                out += made
            values = out
        if cancelled is not None:
            self.queue_node.received += len(values)
            self.queue_node.suppressed += len(values)
            raise cancelled
        return values

    def _failed(self, name: str, node: NodeCounts, value: Any, exc: Exception) -> None:
        node.failed += 1
        text = repr(value)[:_TEXT_LENGTH]
        failure = Failure(node=name, event=text, error=f"{type(exc).__name__}: {exc}")
        self.failures.append(failure)
        if self._on_error == "stop":
            self._problem = TransformError(f"{name} failed on {text}: {failure.error}")
            self._problem.__cause__ = exc
        # The 1st, 2nd, 4th, 8th …: a step that fails on everything must not drown the log; all are counted.
        if node.failed & (node.failed - 1) == 0:
            _LOG.warning("%s failed on %s, its failure number %d: %s", name, text, node.failed, failure.error)


async def _process(transform: Any, value: Any) -> list[Any]:
    made = transform.process(value)
    if inspect.isawaitable(made):
        made = await made
    if made is None:
        return []
    if hasattr(made, "__aiter__"):
        return [m async for m in made]
    if isinstance(made, BaseModel | str | bytes | dict) or not isinstance(made, Iterable):
        # A model, a string or a mapping could be iterated, into parts that nobody meant.
        raise TransformError(f"process returned {type(made).__name__}; it returns a list, empty for nothing")
    return list(made)


def _name(transform: Any) -> str:
    name = getattr(transform, "name", None)
    return name if isinstance(name, str) and name else type(transform).__name__


def _unique(names: Sequence[str]) -> list[str]:
    found: dict[str, None] = {}
    for name in names:
        candidate, n = name, 1
        while candidate in found:
            n += 1
            candidate = f"{name}-{n}"
        found[candidate] = None
    return list(found)
