"""A user's own step, event by event."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import pyarrow as pa

from market_data_core.batch import EventBatch, Instrument, Instruments
from market_data_core.errors import ConfigurationError, SchemaValidationError, TransformError
from market_data_core.models import Bar, Quote, Trade
from market_data_core.protocols import Mark, Result
from market_data_core.schemas import EVENT_SCHEMAS, Kind
from market_data_pipeline.events import Event, iter_events, to_source_batches
from market_data_pipeline.operators.data_kinds import kind_named

_KINDS: Final = frozenset({Kind.QUOTES, Kind.TRADES, Kind.BARS})
# What a value cannot do without.
_NEEDED: Final = {
    Kind.QUOTES: (),
    Kind.TRADES: ("price", "size"),
    Kind.BARS: ("interval", "open", "high", "low", "close"),
}

_UNFIT: Final = (SchemaValidationError, OverflowError, AttributeError, TypeError, ValueError)


class EventTransform(Protocol):
    """A user's own object."""

    def process(self, value: Any) -> Iterable[Any] | None:
        """Return what comes out for one value; empty or None for nothing."""
        ...


class PerEvent:
    """Hands each event to a user's object and takes what that returns.

    The object's `process` is given a `Quote`, `Trade` or `Bar` and returns any number of them. The very object it was
    given, returned, passes the event on with all its columns. Any other is a new row: it takes receive time and seq of
    the event, and the event is absorbed unless it is passed on too. Nothing returned filters the event. Rows come out
    in the order returned, kind by kind.

    An exception out of the user's code, or a return value that is none of these, fails the one event, with all that
    was returned for it; `problem` says what happened last. Events that have no value, such as a trade without a size,
    are filtered.

    If the object has `snapshot` (plain values) and `restore`, they are used for its state. Output follows the log
    alone only if the object looks at nothing but its values.

    Args:
        transform: The user's object.
        name: Of the node.
        kinds: Which of ``quotes``, ``trades``, ``bars`` it is given; others go past it. None for all three.

    Raises:
        ConfigurationError: The object has no `process`, or one that is asynchronous; or there is no such kind.
    """

    def __init__(
        self, transform: EventTransform, name: str = "per_event", *, kinds: Iterable[str] | None = None
    ) -> None:
        process = getattr(transform, "process", None)
        if not callable(process):
            raise ConfigurationError(f"{name}: {type(transform).__name__} has no method process(value)")
        if inspect.iscoroutinefunction(process) or inspect.isasyncgenfunction(process):
            raise ConfigurationError(
                f"{name}: process of {type(transform).__name__} is asynchronous; operators wait for nothing, "
                "write it as a plain function"
            )
        chosen = _KINDS if kinds is None else frozenset(kind_named(kind, where=name) for kind in kinds)
        if not chosen or not chosen <= _KINDS:
            raise ConfigurationError(f"{name}: kinds are some of {', '.join(sorted(_KINDS))}")
        self._transform = transform
        self._name = name
        self._chosen = chosen
        self._problem = ""

    @property
    def name(self) -> str:
        """The node's name."""
        return self._name

    @property
    def kinds(self) -> frozenset[Kind]:
        """Quotes, trades and bars, or those chosen."""
        return self._chosen

    @property
    def problem(self) -> str:
        """What went wrong last in the user's code, empty if nothing ever did."""
        return self._problem

    def gives(self, incoming: frozenset[Kind]) -> frozenset[Kind]:
        """What comes in, and whatever the user's object may return."""
        return incoming | _KINDS if incoming & self._chosen else incoming

    def process(self, batch: EventBatch) -> Result:
        """Return what the user's object returns for each event."""
        whole = batch.filter(_complete(batch)) if len(batch) else batch
        result = Result(filtered=len(batch) - len(whole))
        done: list[_Done] = []
        for row, value in enumerate(iter_events(whole) if len(whole) else ()):
            try:
                returned = _returned(self._transform.process(value))
            except Exception as exc:  # noqa: BLE001  whatever the user's code does, it costs this one event
                self._fail(result, exc)
            else:
                done.append(_Done.of(row, value, returned))
        if not _fits(each for d in done for each in d.others):
            done = [d for d in done if self._fitting(d, result)]
        for d in done:
            if not d.passes and d.others:
                result.absorbed += 1
            elif not d.passes:
                result.filtered += 1
        fresh = [(d.row, each) for d in done for each in d.others]
        result.out = _out(whole, [d.row for d in done if d.passes], fresh)
        result.emitted = len(fresh)
        return result

    def _fail(self, result: Result, exc: Exception) -> None:
        self._problem = f"{type(exc).__name__}: {exc}"
        result.failed += 1

    def _fitting(self, done: _Done, result: Result) -> bool:
        # A value built without validation may hold what its column cannot.
        try:
            to_source_batches(done.others, vendor="")
        except _UNFIT as exc:
            self._fail(result, exc)
            return False
        return True

    def advance(self, mark: Mark) -> None:
        """Time does not matter here."""

    def barrier(self, end: int, ts_known_ns: int) -> Result:
        """Return nothing: what goes in comes out at once."""
        del end, ts_known_ns
        return Result()

    def in_flight(self) -> int:
        """Return 0."""
        return 0

    def snapshot(self) -> dict[str, Any]:
        """Return the last problem and, if the user's object has any, its state."""
        state: dict[str, Any] = {"problem": self._problem}
        if self._keeps_state():
            state["transform"] = self._transform.snapshot()  # type: ignore[attr-defined]  # asked for just before
        return state

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `snapshot` gave."""
        self._problem = state["problem"]
        if self._keeps_state() and "transform" in state:
            self._transform.restore(state["transform"])  # type: ignore[attr-defined]  # asked for just before

    def _keeps_state(self) -> bool:
        return all(callable(getattr(self._transform, method, None)) for method in ("snapshot", "restore"))


def _complete(batch: EventBatch) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    complete = np.ones(len(batch), np.bool_)
    for name in _NEEDED[batch.kind]:
        column = batch.data.column(name)
        if pa.types.is_floating(column.type):
            complete &= ~np.isnan(batch.floats(name))
        elif column.null_count:
            complete &= column.is_valid().to_numpy(zero_copy_only=False)
    return complete


def _returned(values: Any) -> list[Any]:
    if values is None:
        return []
    if inspect.isawaitable(values):
        if inspect.iscoroutine(values):
            values.close()
        raise TransformError("process returned something to be awaited; operators wait for nothing")
    returned = list(values)
    for value in returned:
        if not isinstance(value, Quote | Trade | Bar):
            raise TransformError(f"process returned {type(value).__name__}, which is no quote, trade or bar")
    return returned


@dataclass(frozen=True, slots=True)
class _Done:
    # What became of one event: whether it passes, and the new values made of it.
    row: int
    passes: bool
    others: list[Event]

    @classmethod
    def of(cls, row: int, value: Event, returned: list[Event]) -> _Done:
        # The value itself passes once; returned again it is a row like any other.
        others = list(returned)
        for at, each in enumerate(others):
            if each is value:
                del others[at]
                return cls(row, passes=True, others=others)
        return cls(row, passes=False, others=others)


def _fits(values: Iterable[Event]) -> bool:
    try:
        to_source_batches(values, vendor="")
    except _UNFIT:
        return False
    return True


def _out(batch: EventBatch, passed: list[int], fresh: list[tuple[int, Event]]) -> list[EventBatch]:
    out: list[EventBatch] = []
    keep = np.zeros(len(batch), np.bool_)
    keep[passed] = True
    if passed:
        out.append(batch.filter(keep))
    by_kind: dict[type[Event], list[tuple[int, Event]]] = {}
    for row, value in fresh:
        by_kind.setdefault(type(value), []).append((row, value))
    for made in by_kind.values():
        rows = [row for row, _ in made]
        derived = _derived(batch, rows, [value for _, value in made])
        if out and derived.kind is out[0].kind and derived.instruments is out[0].instruments:
            # What passes goes before what was made of it, and both stay in the order of their events.
            order = np.argsort(np.array([*passed, *rows]), kind="stable")
            both = pa.concat_batches([out[0].data, derived.data]).take(pa.array(order))
            out[0] = out[0].with_data(both)
        else:
            out.append(derived)
    return out


def _derived(batch: EventBatch, rows: list[int], values: list[Event]) -> EventBatch:
    # New values carry the vendor, receive time and seq of the event they were made from.
    ids = batch.column("instrument")
    vendors = [batch.instruments[int(ids[row])].vendor for row in rows]
    source = to_source_batches(values, vendor="")[0]
    entries = [Instrument(vendor=v, symbol=e.symbol) for v, e in zip(vendors, values, strict=True)]
    known = [batch.instruments.find(e.vendor, e.symbol) for e in entries]
    instruments = batch.instruments
    if None in known:
        # The log's table is not ours to add to.
        instruments = Instruments()
        known = [
            instruments.add(e if at is None else batch.instruments[at]) for e, at in zip(entries, known, strict=True)
        ]
    taken = batch.data.select(["ts_recv", "seq"]).take(pa.array(rows))
    columns = {
        **dict(zip(source.data.schema.names, source.data.columns, strict=True)),
        **dict(zip(taken.schema.names, taken.columns, strict=True)),
        "instrument": pa.array(known, pa.int32()),
    }
    if source.kind is Kind.BARS:
        columns["ts_known"] = taken.column("ts_recv")
    schema = EVENT_SCHEMAS[source.kind]
    data = pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)
    return EventBatch(
        kind=source.kind,
        data=data,
        instruments=instruments,
        origin=batch.origin,
        source_id=batch.source_id,
        offset=batch.offset,
    )
