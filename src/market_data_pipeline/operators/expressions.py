"""Expressions over the columns of a batch, as `Filter`, `Map`, `Router` and `Window` are given them.

The language is a small part of Python's, evaluated over whole columns:

- names: the columns of the kind, and ``vendor symbol origin ts_event ts_recv seq flags``;
- literals: numbers, text in quotes, ``True`` and ``False``;
- ``+ - * / // % **`` on numbers; whole numbers stay whole and exact except in ``/`` and ``**``, and are null beyond
  2**62;
- ``== != < <= > >=``, also in chains, ``in`` and ``not in`` a list of literals, ``and or not``;
- ``abs(x)  log(x)  sqrt(x)  round(x)  round(x, digits)  min(x, y, ...)  max(x, y, ...)  is_null(x)``;
- ``flag(CROSSED)``: whether the event has that bit of `market_data_core.schemas.Flag`.

What is absent stays absent: an operation on null, or one whose result is no finite number, is null. Every comparison
with null is false, also ``!=`` and ``not in``; ``not`` of it is true. ``is_null`` asks.

Nothing else is accepted: an expression is data, whoever wrote it, and cannot reach anything but the row.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterable
from enum import StrEnum
from functools import reduce
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from market_data_core.batch import EventBatch
from market_data_core.errors import ConfigurationError
from market_data_core.schemas import EVENT_SCHEMAS, Flag, Kind
from market_data_pipeline.operators import values
from market_data_pipeline.operators.data_kinds import DATA_KINDS, NAMES, has_column, kinds_with
from market_data_pipeline.operators.values import Bools, Floats, Number, Text

_LONGEST = 2_000
_DEEPEST = 100
_MOST_DIGITS = 12

_ARITHMETIC: Final[dict[type[ast.operator], Callable[[Number, Number], Number]]] = {
    ast.Add: lambda a, b: values.arithmetic(np.add, a, b),
    ast.Sub: lambda a, b: values.arithmetic(np.subtract, a, b),
    ast.Mult: lambda a, b: values.arithmetic(np.multiply, a, b),
    ast.FloorDiv: lambda a, b: values.arithmetic(np.floor_divide, a, b),
    ast.Mod: lambda a, b: values.arithmetic(np.remainder, a, b),
    ast.Div: values.divide,
    ast.Pow: values.power,
}
_COMPARISONS: Final[dict[type[ast.cmpop], tuple[np.ufunc, Callable[[Any, Any], Any]]]] = {
    ast.Eq: (np.equal, pc.equal),
    ast.NotEq: (np.not_equal, pc.not_equal),
    ast.Lt: (np.less, pc.less),
    ast.LtE: (np.less_equal, pc.less_equal),
    ast.Gt: (np.greater, pc.greater),
    ast.GtE: (np.greater_equal, pc.greater_equal),
}
_FUNCTIONS: Final[dict[str, Callable[[Number], Number]]] = {
    "abs": values.absolute,
    "log": values.log,
    "sqrt": values.sqrt,
}
_EXTREMES: Final = {"min": np.minimum, "max": np.maximum}
_ALL_FUNCTIONS: Final = (*_FUNCTIONS, *_EXTREMES, "round", "is_null", "flag")


class ValueType(StrEnum):
    """What an expression gives."""

    WHOLE = "whole number"
    FLOAT = "number"
    TEXT = "text"
    TRUTH = "truth"


_NUMBERS: Final = (ValueType.WHOLE, ValueType.FLOAT)
_Evaluate = Callable[[EventBatch], Any]
_Typed = tuple[ValueType, _Evaluate]


class Expression:
    """One expression, read and checked for what it is made of; `bind` checks its types for a kind.

    Args:
        text: In the language of this module.
        where: What the expression is for, to begin messages with, such as ``filter``.

    Raises:
        ConfigurationError: It is something else; the message has the expression, the position and what is wrong there.
    """

    def __init__(self, text: str, *, where: str = "expression") -> None:
        if not isinstance(text, str):
            raise ConfigurationError(f"{where}: {text!r} is no expression; write it as text, such as 'size >= 100'")
        # Line breaks mean nothing here, so that a position is one number.
        self.text = " ".join(text.split("\n")).strip()
        self._where = where
        if len(self.text) > _LONGEST:
            raise ConfigurationError(f"{where}: an expression of {len(text)} characters; at most {_LONGEST} are read")
        try:
            self._body = ast.parse(self.text, mode="eval").body
        except SyntaxError as exc:
            raise ConfigurationError(f"{where} {self.text!r}: {exc.msg} at position {exc.offset or 1}") from exc
        except (ValueError, RecursionError, MemoryError) as exc:
            raise ConfigurationError(f"{where} {self.text!r}: cannot be read: {exc}") from exc
        self.names = frozenset(self._check(self._body, 0))

    def kinds(self) -> frozenset[Kind]:
        """Return the kinds that have every column the expression names; there is at least one.

        Raises:
            ConfigurationError: There is none.
        """
        return kinds_with(self.names, where=f"{self._where} {self.text!r}")

    def bind(self, kind: Kind) -> Bound:
        """Return the expression for one kind.

        Raises:
            ConfigurationError: The kind lacks a column, or an operation does not go with the type of its values.
        """
        return Bound(*self._typed(self._body, kind))

    # What the expression is made of, whatever the kind.

    def _wrong(self, node: ast.AST, problem: str) -> ConfigurationError:
        segment = ast.get_source_segment(self.text, node) or self.text
        # Offsets of nodes count bytes.
        position = len(self.text.encode()[: getattr(node, "col_offset", 0)].decode()) + 1
        return ConfigurationError(f"{self._where} {self.text!r}: {problem}, at position {position}: {segment!r}")

    def _check(self, node: ast.AST, depth: int) -> Iterable[str]:
        if depth > _DEEPEST:
            raise self._wrong(node, f"nested more than {_DEEPEST} deep")
        match node:
            case ast.Constant():
                self._check_literal(node)
            case ast.Name():
                yield self._check_name(node)
            case ast.Call():
                yield from self._check_call(node, depth)
            case ast.Compare():
                yield from self._check_comparison(node, depth)
            case ast.BoolOp(values=parts):
                for part in parts:
                    yield from self._check(part, depth + 1)
            case ast.BinOp(left=left, op=operation, right=right) if type(operation) in _ARITHMETIC:
                yield from self._check(left, depth + 1)
                yield from self._check(right, depth + 1)
            case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.UAdd(), operand=operand):
                yield from self._check(operand, depth + 1)
            case _:
                raise self._wrong(
                    node, "only columns, literals, arithmetic, comparisons, and/or/not, in [...] are known"
                )

    def _check_name(self, node: ast.Name) -> str:
        if not any(has_column(kind, node.id) for kind in DATA_KINDS):
            raise self._wrong(node, f"no column is called {node.id!r}")
        return node.id

    def _check_comparison(self, node: ast.Compare, depth: int) -> Iterable[str]:
        yield from self._check(node.left, depth + 1)
        for op, comparator in zip(node.ops, node.comparators, strict=True):
            if isinstance(op, ast.In | ast.NotIn):
                self._check_choices(comparator)
            elif type(op) in _COMPARISONS:
                yield from self._check(comparator, depth + 1)
            else:
                raise self._wrong(node, "'is' is not known here; compare with == or ask is_null(...)")

    def _check_literal(self, node: ast.Constant) -> None:
        value = node.value
        if isinstance(value, bool | str):
            return
        if not isinstance(value, int | float):
            raise self._wrong(node, "a literal is a number, text in quotes, True or False")
        if not abs(value) < 2**62 if isinstance(value, int) else not math.isfinite(value):
            raise self._wrong(node, "the number is too large")

    def _check_choices(self, node: ast.AST) -> None:
        if not isinstance(node, ast.List | ast.Tuple | ast.Set) or not node.elts:
            raise self._wrong(node, "after 'in' comes a list of literals, such as ['AAPL', 'MSFT']")
        for element in node.elts:
            self._choice(element)

    def _check_call(self, node: ast.Call, depth: int) -> Iterable[str]:
        name = node.func.id if isinstance(node.func, ast.Name) else None
        if name not in _ALL_FUNCTIONS:
            raise self._wrong(node, f"the functions are {', '.join(_ALL_FUNCTIONS)}")
        if node.keywords or any(isinstance(a, ast.Starred) for a in node.args):
            raise self._wrong(node, "arguments are given one by one and without names")
        least, most = {"round": (1, 2), "min": (2, _DEEPEST), "max": (2, _DEEPEST)}.get(name, (1, 1))
        if not least <= len(node.args) <= most:
            raise self._wrong(node, f"{name} takes {least if least == most else f'{least} or more'} arguments")
        if name == "flag":
            self._flag(node)
            return
        if name == "round" and len(node.args) == 2:
            self._digits(node)
        for argument in node.args[:1] if name == "round" else node.args:
            yield from self._check(argument, depth + 1)

    def _flag(self, node: ast.Call) -> int:
        argument = node.args[0]
        name = argument.id if isinstance(argument, ast.Name) else getattr(argument, "value", None)
        if not isinstance(name, str) or name.upper() not in Flag.__members__:
            raise self._wrong(argument, f"the flags are {', '.join(Flag.__members__)}")
        return int(Flag[name.upper()])

    def _digits(self, node: ast.Call) -> int:
        digits = getattr(node.args[1], "value", None)
        if not isinstance(digits, int) or isinstance(digits, bool) or not 0 <= digits <= _MOST_DIGITS:
            raise self._wrong(node.args[1], f"digits are a whole number from 0 to {_MOST_DIGITS}")
        return digits

    def _choice(self, node: ast.AST) -> Any:
        # A literal of a list, with its sign.
        if isinstance(node, ast.Constant) and not isinstance(node.value, bool):
            self._check_literal(node)
            return node.value
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            value = self._choice(node.operand)
            if not isinstance(value, str):
                return -value
        raise self._wrong(node, "a list holds numbers and text alone")

    # What it computes, for one kind.

    def _typed(self, node: ast.AST, kind: Kind) -> _Typed:
        match node:
            case ast.Constant(value=value):
                return _literal(value)
            case ast.Name(id=name):
                if not has_column(kind, name):
                    raise self._wrong(node, f"{kind} have no column {name!r}")
                return _column(kind, name)
            case ast.BinOp(left=left, op=operation, right=right):
                return self._binary(_ARITHMETIC[type(operation)], type(operation), (left, right), kind)
            case ast.UnaryOp():
                return self._unary(node, kind)
            case ast.BoolOp(op=joint, values=parts):
                truths = [self._truth(part, kind) for part in parts]
                join = np.logical_and if isinstance(joint, ast.And) else np.logical_or
                return ValueType.TRUTH, lambda batch: reduce(join, [truth(batch) for truth in truths])
            case ast.Compare():
                return self._comparison(node, kind)
            case ast.Call():
                return self._call(node, kind)
        raise self._wrong(node, "cannot be computed")

    def _number(self, node: ast.AST, kind: Kind) -> _Typed:
        type_, evaluate = self._typed(node, kind)
        if type_ not in _NUMBERS:
            raise self._wrong(node, f"a number is needed, this is {type_}")
        return type_, evaluate

    def _truth(self, node: ast.AST, kind: Kind) -> _Evaluate:
        type_, evaluate = self._typed(node, kind)
        if type_ is not ValueType.TRUTH:
            raise self._wrong(node, f"and, or and not join comparisons, this is {type_}")
        return evaluate

    def _unary(self, node: ast.UnaryOp, kind: Kind) -> _Typed:
        if isinstance(node.op, ast.Not):
            truth = self._truth(node.operand, kind)
            return ValueType.TRUTH, lambda batch: ~truth(batch)
        type_, number = self._number(node.operand, kind)
        if isinstance(node.op, ast.UAdd):
            return type_, number
        return type_, lambda batch: values.negative(number(batch))

    def _binary(
        self,
        compute: Callable[[Number, Number], Number],
        op: type[ast.operator],
        sides: tuple[ast.AST, ast.AST],
        kind: Kind,
    ) -> _Typed:
        (left_type, left), (right_type, right) = (self._number(side, kind) for side in sides)
        stays_whole = left_type is right_type is ValueType.WHOLE and op not in (ast.Div, ast.Pow)
        type_ = ValueType.WHOLE if stays_whole else ValueType.FLOAT
        return type_, lambda batch: compute(left(batch), right(batch))

    def _comparison(self, node: ast.Compare, kind: Kind) -> _Typed:
        links: list[_Evaluate] = []
        left = node.left
        for op, right in zip(node.ops, node.comparators, strict=True):
            if isinstance(op, ast.In | ast.NotIn):
                links.append(self._among(left, op, right, kind))
            else:
                links.append(self._compared(left, op, right, kind))
            left = right
        return ValueType.TRUTH, lambda batch: reduce(np.logical_and, [link(batch) for link in links])

    def _compared(self, left: ast.AST, op: ast.cmpop, right: ast.AST, kind: Kind) -> _Evaluate:
        if isinstance(left, ast.List | ast.Tuple | ast.Set):
            raise self._wrong(left, "a list stands after 'in' alone")
        (left_type, a), (right_type, b) = self._typed(left, kind), self._typed(right, kind)
        of_numbers, of_text = _COMPARISONS[type(op)]
        if left_type in _NUMBERS and right_type in _NUMBERS:
            return lambda batch: values.compare_numbers(of_numbers, a(batch), b(batch))
        if left_type is right_type is ValueType.TEXT:
            return lambda batch: values.compare_text(of_text, a(batch), b(batch))
        raise self._wrong(right, f"{left_type} and {right_type} cannot be compared")

    def _among(self, left: ast.AST, op: ast.cmpop, right: ast.AST, kind: Kind) -> _Evaluate:
        if isinstance(left, ast.List | ast.Tuple | ast.Set):
            raise self._wrong(left, "a list stands after 'in' alone")
        type_, evaluate = self._typed(left, kind)
        elements = right.elts if isinstance(right, ast.List | ast.Tuple | ast.Set) else []
        choices = [self._choice(element) for element in elements]
        negated = isinstance(op, ast.NotIn)
        if type_ is ValueType.TEXT and all(isinstance(c, str) for c in choices):

            def text(batch: EventBatch) -> Bools:
                a = evaluate(batch)
                among = values.text_among(a, choices)
                return ~among & ~values.text_absent(a) if negated else among

            return text
        if type_ in _NUMBERS and not any(isinstance(c, str) for c in choices):
            numbers = [Number(np.array([c])) for c in choices]

            def number(batch: EventBatch) -> Bools:
                a = evaluate(batch)
                among = reduce(np.logical_or, [values.compare_numbers(np.equal, a, c) for c in numbers])
                return ~among & a.present() if negated else among

            return number
        raise self._wrong(right, f"a list of {type_} is needed")

    def _call(self, node: ast.Call, kind: Kind) -> _Typed:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name == "flag":
            bit = self._flag(node)
            return ValueType.TRUTH, lambda batch: (batch.column("flags").astype(np.int64) & bit) != 0
        if name == "is_null":
            return ValueType.TRUTH, self._absent(node.args[0], kind)
        if name in _EXTREMES:
            ufunc = _EXTREMES[name]
            parts = [self._number(argument, kind) for argument in node.args]
            type_ = ValueType.WHOLE if all(t is ValueType.WHOLE for t, _ in parts) else ValueType.FLOAT
            return type_, lambda batch: reduce(
                lambda a, b: values.extreme(ufunc, a, b), [evaluate(batch) for _, evaluate in parts]
            )
        type_, number = self._number(node.args[0], kind)
        if name == "round":
            digits = self._digits(node) if len(node.args) == 2 else 0
            return type_, lambda batch: values.rounded(number(batch), digits)
        compute = _FUNCTIONS[name]
        return type_ if name == "abs" else ValueType.FLOAT, lambda batch: compute(number(batch))

    def _absent(self, node: ast.AST, kind: Kind) -> _Evaluate:
        type_, evaluate = self._typed(node, kind)
        if type_ is ValueType.TEXT:
            return lambda batch: values.text_absent(evaluate(batch))
        if type_ in _NUMBERS:
            return lambda batch: ~evaluate(batch).present()
        raise self._wrong(node, "true or false is never null")


class Bound:
    """An expression for one kind.

    Attributes:
        type: What it gives.
    """

    def __init__(self, type_: ValueType, evaluate: _Evaluate) -> None:
        self.type = type_
        self._evaluate = evaluate

    def truth(self, batch: EventBatch) -> Bools:
        """Return where a condition holds, one per row."""
        return np.broadcast_to(self._evaluate(batch), len(batch))

    def floats(self, batch: EventBatch) -> Floats:
        """Return numbers, one per row, NaN where null."""
        return np.broadcast_to(self._evaluate(batch).floats(), len(batch))

    def array(self, batch: EventBatch) -> pa.Array:
        """Return an Arrow array of float64, int64 or strings, one per row, null where absent."""
        found = self._evaluate(batch)
        if self.type is ValueType.TEXT:
            return found.array(len(batch))
        present = np.broadcast_to(found.present(), len(batch))
        each = np.broadcast_to(found.values, len(batch))
        return pa.array(np.ascontiguousarray(each), mask=None if present.all() else ~present)


def condition(expression: Expression, kind: Kind, *, where: str) -> Bound:
    """Return an expression bound to a kind that says yes or no.

    Raises:
        ConfigurationError: It gives a number or text, or does not fit the kind.
    """
    bound = expression.bind(kind)
    if bound.type is not ValueType.TRUTH:
        raise ConfigurationError(
            f"{where} {expression.text!r} gives {bound.type}; a condition such as 'size > 0' is needed"
        )
    return bound


def _literal(value: Any) -> _Typed:
    if isinstance(value, bool):
        truth = np.array([value])
        return ValueType.TRUTH, lambda _: truth
    if isinstance(value, str):
        text = Text(pa.array([value], pa.string()))
        return ValueType.TEXT, lambda _: text
    number = Number(np.array([value], np.int64 if isinstance(value, int) else np.float64))
    return ValueType.WHOLE if isinstance(value, int) else ValueType.FLOAT, lambda _: number


def _column(kind: Kind, name: str) -> _Typed:
    if name == "origin":
        return ValueType.TEXT, lambda batch: Text(pa.array([str(batch.origin)], pa.string()))
    if name in ("vendor", "symbol"):
        at = NAMES.index(name)
        return ValueType.TEXT, lambda batch: Text(batch.instruments.names()[at], batch.column("instrument"))
    type_ = EVENT_SCHEMAS[kind].field(name).type
    if pa.types.is_string(type_):
        return ValueType.TEXT, lambda batch: Text(batch.data.column(name))
    if pa.types.is_integer(type_):
        return ValueType.WHOLE, lambda batch: values.whole(batch.data.column(name))
    return ValueType.FLOAT, lambda batch: values.real(batch.floats(name))
