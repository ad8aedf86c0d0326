"""Columns and named values computed from expressions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from market_data_core.batch import EventBatch
from market_data_core.errors import ConfigurationError
from market_data_core.protocols import Mark, Result
from market_data_core.schemas import EVENT_SCHEMAS, KIND_FIELDS, Kind
from market_data_pipeline.operators.data_kinds import DATA_KINDS, kind_named, kinds_with
from market_data_pipeline.operators.expressions import Bound, Expression, ValueType

_NUMBERS = (ValueType.WHOLE, ValueType.FLOAT)


class Map:
    """Computes from each row either other values of its columns, or rows of kind ``analytics``.

    With `set`, rows pass with some columns replaced. All expressions see the row as it came, whatever their order. What
    has no value is null. Times, seq and instrument say which event it is and cannot be set.

    With `analytics`, each row gives one row per name, in the order given, with the row's own times and seq; a value
    that is null gives none. A row that gives none is filtered, the others are absorbed.

    It works on every kind that has all the columns named; the others go past it.

    Args:
        set: By column, an expression in the language of `expressions`.
        analytics: By name of the value, an expression that gives a number. Either this or `set`.
        kind: The one kind to work on; None for all that fit.
        name: Of the node.

    Raises:
        ConfigurationError: Both or neither is given, an expression is wrong or of another type than its column, or no
            kind fits.
    """

    def __init__(
        self,
        *,
        set: Mapping[str, str] | None = None,  # noqa: A002  the published name
        analytics: Mapping[str, str] | None = None,
        kind: str | None = None,
        name: str = "map",
    ) -> None:
        given = [m for m in (set, analytics) if m is not None]
        if len(given) != 1 or not isinstance(given[0], Mapping) or not given[0]:
            raise ConfigurationError(f"{name}: give either set or analytics, by name an expression")
        self._name = name
        self._sets = set is not None
        expressions = {target: Expression(text, where=f"{name} {target}") for target, text in given[0].items()}
        names = frozenset[str]().union(*(e.names for e in expressions.values()))
        fitting = kinds_with(names, where=name)
        if self._sets:
            fitting = _with_targets(fitting, list(expressions), name)
        kinds = fitting if kind is None else {kind_named(kind, where=name)}
        if not kinds <= fitting:
            raise ConfigurationError(f"{name}: {kind} lack a column of {', '.join(sorted(names | {*expressions}))}")
        self._bound = {k: self._bind(expressions, k) for k in kinds}

    def _bind(self, expressions: Mapping[str, Expression], kind: Kind) -> dict[str, Bound]:
        bound = {target: expression.bind(kind) for target, expression in expressions.items()}
        for target, value in bound.items():
            wanted = _types(EVENT_SCHEMAS[kind].field(target).type) if self._sets else _NUMBERS
            if value.type not in wanted:
                raise ConfigurationError(
                    f"{self._name} {target}: {expressions[target].text!r} gives {value.type}, {wanted[0]} is needed"
                )
        return bound

    @property
    def name(self) -> str:
        """The node's name."""
        return self._name

    @property
    def kinds(self) -> frozenset[Kind]:
        """The kinds that have every column named."""
        return frozenset(self._bound)

    def gives(self, incoming: frozenset[Kind]) -> frozenset[Kind]:
        """What comes in; with `analytics` those alone, where something comes in that it works on."""
        if self._sets:
            return incoming
        return frozenset({Kind.ANALYTICS}) if incoming & self.kinds else frozenset()

    def process(self, batch: EventBatch) -> Result:
        """Return the rows with new values, or the values named."""
        if not len(batch):
            return Result()
        return Result(out=[self._with_columns(batch)]) if self._sets else self._values(batch)

    def _with_columns(self, batch: EventBatch) -> EventBatch:
        data = batch.data
        for target, bound in self._bound[batch.kind].items():
            at = data.schema.get_field_index(target)
            field = data.schema.field(at)
            data = data.set_column(at, field, _fitted(bound.array(batch), field.type))
        return batch.with_data(data)

    def _values(self, batch: EventBatch) -> Result:
        bound = self._bound[batch.kind]
        table = np.column_stack([value.floats(batch) for value in bound.values()])
        row_of, column_of = np.nonzero(~np.isnan(table))
        if not len(row_of):
            return Result(filtered=len(batch))
        taken = batch.data.select(["instrument", "ts_event", "ts_recv", "seq"]).take(pa.array(row_of))
        columns = {
            **dict(zip(taken.schema.names, taken.columns, strict=True)),
            "flags": pa.array(np.zeros(len(row_of), np.int32)),
            "name": pa.array(list(bound), pa.string()).take(pa.array(column_of)),
            "value": pa.array(table[row_of, column_of]),
        }
        schema = EVENT_SCHEMAS[Kind.ANALYTICS]
        out = EventBatch(
            kind=Kind.ANALYTICS,
            data=pa.RecordBatch.from_arrays([columns[n] for n in schema.names], schema=schema),
            instruments=batch.instruments,
            origin=batch.origin,
            source_id=batch.source_id,
            offset=batch.offset,
        )
        absorbed = len(np.unique(row_of))
        return Result(out=[out], emitted=len(out), absorbed=absorbed, filtered=len(batch) - absorbed)

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
        """Return nothing: there is no state."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Do nothing: there is no state."""


def _with_targets(kinds: frozenset[Kind], targets: list[str], where: str) -> frozenset[Kind]:
    own = {kind: {field.name for field in KIND_FIELDS[kind]} for kind in DATA_KINDS}
    for target in targets:
        if not any(target in names for names in own.values()):
            raise ConfigurationError(f"{where}: {target!r} is no column that can be set")
    found = frozenset(kind for kind in kinds if own[kind].issuperset(targets))
    if not found:
        raise ConfigurationError(f"{where}: no kind has all columns to set ({', '.join(targets)}) and to read")
    return found


def _types(type_: pa.DataType) -> tuple[ValueType, ...]:
    if pa.types.is_string(type_):
        return (ValueType.TEXT,)
    return (ValueType.WHOLE,) if pa.types.is_integer(type_) else (ValueType.FLOAT, ValueType.WHOLE)


def _fitted(values: pa.Array, type_: pa.DataType) -> pa.Array:
    if type_ == pa.int32():
        # What the column has no room for has no value there.
        fits = pc.and_(pc.greater_equal(values, -(2**31)), pc.less(values, 2**31))
        values = pc.if_else(fits, values, pa.scalar(None, values.type))
    # A whole number beyond 2**53 becomes the nearest float.
    return values if values.type == type_ else values.cast(type_, safe=False)
