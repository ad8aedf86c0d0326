from __future__ import annotations

import math
import operator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_events import BASE, PRICES, Quote, Trade, batch_of

from market_data_core.batch import Instruments
from market_data_core.errors import ConfigurationError
from market_data_core.schemas import Flag, Kind
from market_data_pipeline.operators.expressions import Expression, ValueType

LARGEST = 2.0**62


def rows_of(batch):
    """The rows as dicts, with what is no finite number absent."""
    return [
        {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        for row in batch.to_table().to_pylist()
    ]


def evaluated(text, batch):
    """What the expression gives, row by row, null as None."""
    bound = Expression(text).bind(batch.kind)
    if bound.type is ValueType.TRUTH:
        return bound.truth(batch).tolist()
    return bound.array(batch).to_pylist()


def trades_batch(*events):
    return batch_of(list(events), instruments=Instruments())


# The language once more, one row at a time, in plain Python: each strategy gives a text and what it means.


def finite(value):
    return None if value is None or isinstance(value, complex) or not math.isfinite(value) else value


def of_two(op):
    def compute(a, b):
        if a is None or b is None:
            return None
        try:
            if isinstance(a, int) and isinstance(b, int):
                return op(a, b) if abs(op(float(a), float(b))) < LARGEST else None
            return finite(op(float(a), float(b)))
        except ZeroDivisionError:
            return None

    return compute


def of_floats(op):
    def compute(*values):
        try:
            return None if None in values else finite(op(*map(float, values)))
        except (ZeroDivisionError, OverflowError, ValueError):
            return None

    return compute


def extreme(function):
    def compute(a, b):
        if a is None or b is None:
            return None
        return function(a, b) if isinstance(a, int) and isinstance(b, int) else function(float(a), float(b))

    return compute


def compared(op):
    def compute(a, b):
        if a is None or b is None:
            return False
        if isinstance(a, int) != isinstance(b, int):
            a, b = float(a), float(b)
        return op(a, b)

    return compute


BINARY = {
    "+": of_two(operator.add),
    "-": of_two(operator.sub),
    "*": of_two(operator.mul),
    "//": of_two(operator.floordiv),
    "%": of_two(operator.mod),
    "/": of_floats(operator.truediv),
    "**": of_floats(operator.pow),
}
COMPARISONS = {
    "==": compared(operator.eq),
    "!=": compared(operator.ne),
    "<": compared(operator.lt),
    "<=": compared(operator.le),
    ">": compared(operator.gt),
    ">=": compared(operator.ge),
}
FUNCTIONS = {
    "abs": lambda a: None if a is None else abs(a),
    "log": of_floats(math.log),
    "sqrt": of_floats(math.sqrt),
    "round": lambda a: None if a is None else round(a) if isinstance(a, int) else float(round(a)),
}


def combined(op, compute, sides):
    (left, a), (right, b) = sides
    return f"({left} {op} {right})", lambda row: compute(a(row), b(row))


def called(name, compute, arguments):
    texts, parts = zip(*arguments, strict=True)
    return f"{name}({', '.join(texts)})", lambda row: compute(*(part(row) for part in parts))


def literal(value):
    return repr(value), lambda _: value


def column(name):
    return name, operator.itemgetter(name)


NUMBERS = st.recursive(
    st.one_of(
        st.sampled_from(["price", "size", "ts_event", "ts_recv", "flags", "seq"]).map(column),
        st.integers(0, 2**61).map(literal),
        st.sampled_from([0, 1, 2, 3, 0.5, 10.0, 0.0]).map(literal),
    ),
    lambda inner: st.one_of(
        st.tuples(st.sampled_from(sorted(BINARY)), st.tuples(inner, inner)).map(
            lambda x: combined(x[0], BINARY[x[0]], x[1])
        ),
        st.tuples(st.sampled_from(sorted(FUNCTIONS)), st.tuples(inner)).map(
            lambda x: called(x[0], FUNCTIONS[x[0]], x[1])
        ),
        st.tuples(st.sampled_from(["min", "max"]), st.tuples(inner, inner)).map(
            lambda x: called(x[0], extreme({"min": min, "max": max}[x[0]]), x[1])
        ),
        inner.map(lambda x: (f"(-{x[0]})", lambda row: None if x[1](row) is None else -x[1](row))),
    ),
    max_leaves=6,
)
TEXTS = st.one_of(
    st.sampled_from(["symbol", "vendor", "trade_id", "exchange", "origin"]).map(column),
    st.sampled_from(["X", "Y", "v", "a", ""]).map(literal),
)


def among(values, negated):
    def make(inner):
        text, part = inner
        word = "not in" if negated else "in"

        def compute(row):
            value = part(row)
            return value is not None and (value in values) != negated

        return f"({text} {word} {values!r})", compute

    return make


LEAVES = st.one_of(
    *(
        st.tuples(st.sampled_from(sorted(COMPARISONS)), st.tuples(side, side)).map(
            lambda x: combined(x[0], COMPARISONS[x[0]], x[1])
        )
        for side in (NUMBERS, TEXTS)
    ),
    st.one_of(NUMBERS, TEXTS).map(lambda x: (f"is_null({x[0]})", lambda row: x[1](row) is None)),
    TEXTS.map(among(["X", "a"], negated=False)),
    TEXTS.map(among(("Y",), negated=True)),
    NUMBERS.map(among([1, 2, 0.5, -3], negated=False)),
    NUMBERS.map(among([0], negated=True)),
    st.sampled_from(["CROSSED", "LAST"]).map(lambda f: (f"flag({f})", lambda row: bool(row["flags"] & Flag[f]))),
    st.booleans().map(literal),
)
TRUTHS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda x: combined("and", lambda a, b: a and b, x)),
        st.tuples(inner, inner).map(lambda x: combined("or", lambda a, b: a or b, x)),
        inner.map(lambda x: (f"(not {x[0]})", lambda row: not x[1](row))),
    ),
    max_leaves=4,
)
EVENTS = st.builds(
    Trade,
    ts=st.integers(0, 10**10),
    price=st.one_of(st.none(), PRICES, st.sampled_from([math.nan, math.inf, 1e300])),
    size=st.one_of(st.none(), st.integers(0, 100).map(float)),
    symbol=st.sampled_from("XY"),
    flags=st.sampled_from([0, int(Flag.CROSSED), int(Flag.CROSSED | Flag.LAST)]),
    trade_id=st.sampled_from([None, "a", "X"]),
    ts_recv=st.integers(0, 10**10),
)


@settings(deadline=None)
@given(st.lists(EVENTS, min_size=1, max_size=12), st.one_of(NUMBERS, TRUTHS, TEXTS))
def test_columns_give_what_rows_one_by_one_give(events, expression):
    """Every digit, and every null."""
    text, meaning = expression
    batch = trades_batch(*events)
    assert evaluated(text, batch) == [meaning(row) for row in rows_of(batch)]


@settings(deadline=None)
@given(st.lists(EVENTS, min_size=2, max_size=12), st.one_of(NUMBERS, TRUTHS), st.integers(1, 11))
def test_a_row_does_not_depend_on_its_neighbours(events, expression, place):
    """A slice of a batch gives a slice of the values."""
    batch = trades_batch(*events)
    part = batch.with_data(batch.data.slice(place))
    assert evaluated(expression[0], part) == evaluated(expression[0], batch)[place:]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 < price <= 3", [False, True, True, False]),
        ("not price > 1", [True, False, False, True]),
        ("price > 1 or\n  is_null(price)", [False, True, True, True]),
        ("price in [1, 2.0]", [True, True, False, False]),
        ("price not in [1]", [False, True, True, False]),
        ("ts_event == 1700000000000000001", [False, True, False, False]),
        ("(ts_event - seq) % 1000 == 0", [True, True, True, True]),
        ("round(price / 3, 2)", [0.33, 0.67, 1.0, None]),
        ("seq + 1", [1, 2, 3, 4]),
        ("symbol", ["X", "X", "Y", "X"]),
        ("symbol > 'X'", [False, False, True, False]),
        ("trade_id == exchange", [False] * 4),
        ("flag('crossed')", [False] * 4),
        ("2 ** 3", [8.0] * 4),
        ("'é' == symbol or price / 0 > 0", [False] * 4),
    ],
)
def test_the_language(text, expected):
    """By example."""
    events = [Trade(n, price=p, symbol=s) for n, (p, s) in enumerate([(1.0, "X"), (2.0, "X"), (3.0, "Y"), (None, "X")])]
    assert evaluated(text, trades_batch(*events)) == expected


@pytest.mark.parametrize(
    ("text", "problem", "position", "segment"),
    [
        ("price > 0 and prize < 1", "no column is called 'prize'", 15, "'prize'"),
        ("'é' == symbol and prize", "no column", 19, "'prize'"),
        ("__import__('os')", "the functions are", 1, "__import__"),
        ("price.real", "only columns", 1, "price.real"),
        ("(lambda: 1)()", "the functions are", 1, "lambda"),
        ("[p for p in price]", "only columns", 1, "[p for"),
        ("price if size else 1", "only columns", 1, "price if"),
        ("price @ size", "only columns", 1, "price @ size"),
        ("(1, 2) == price", "only columns", 1, "(1, 2)"),
        ("~flags", "only columns", 1, "~flags"),
        ("f'{price}'", "only columns", 1, "f'"),
        ("price[0]", "only columns", 1, "price[0]"),
        ("instrument == 3", "no column", 1, "instrument"),
        ("price is 1.0", "is_null", 1, "price is"),
        ("None == price", "a literal is", 1, "None"),
        ("b'X' == symbol", "a literal is", 1, "b'X'"),
        ("price > 1e999", "too large", 9, "1e999"),
        ("seq > 9223372036854775808", "too large", 7, "9223372036854775808"),
        ("price in size", "list of literals", 10, "size"),
        ("price in []", "list of literals", 10, "[]"),
        ("price in [size]", "numbers and text alone", 11, "size"),
        ("price in [True]", "numbers and text alone", 11, "True"),
        ("round(price, 99)", "digits", 14, "99"),
        ("round(price, size)", "digits", 14, "size"),
        ("min(price)", "takes 2 or more", 1, "min(price)"),
        ("abs(price, size)", "takes 1", 1, "abs"),
        ("abs(x=price)", "without names", 1, "abs"),
        ("max(*price)", "without names", 1, "max"),
        ("flag(NO_SUCH)", "the flags are", 6, "NO_SUCH"),
        ("flag(1)", "the flags are", 6, "1"),
    ],
)
def test_what_is_not_in_the_language_is_refused(text, problem, position, segment):
    """Whoever wrote it, an expression reaches nothing but the row; the message says what and where."""
    with pytest.raises(ConfigurationError) as refused:
        Expression(text, where="node f")
    message = refused.value.message
    assert message.startswith(f"node f {text!r}: ")
    assert problem in message
    assert f"at position {position}: " in message
    assert segment in message.split("at position")[1]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("symbol > 1", "text and whole number cannot be compared"),
        ("symbol + 1 > 2", "a number is needed, this is text"),
        ("price and size", "join comparisons"),
        ("not symbol", "join comparisons"),
        ("symbol in [1]", "a list of text is needed"),
        ("price in ['a']", "a list of number is needed"),
        ("-symbol == 'X'", "a number is needed"),
        ("is_null(price > 1)", "never null"),
        ("bid_price > 1", "trades have no column"),
        ("log(price > 1)", "a number is needed"),
    ],
)
def test_operations_have_to_go_with_their_types(text, problem):
    """What cannot be computed is refused before there is an event."""
    with pytest.raises(ConfigurationError, match=problem):
        Expression(text).bind(Kind.TRADES)


@pytest.mark.parametrize("text", ["", "price >", "1 2", "price = 1", "price; size", "(" * 300, "-" * 1500 + "1", "\0"])
def test_what_is_no_expression_is_refused(text):
    """Also where it would be too much for Python's own reader."""
    with pytest.raises(ConfigurationError):
        Expression(text)


@pytest.mark.parametrize("text", ["1+" * 150 + "price", "price" + " " * 3000 + "> 1", 7])
def test_expressions_are_bounded(text):
    """In depth and length; and they are text."""
    with pytest.raises(ConfigurationError):
        Expression(text)


def test_an_expression_fits_the_kinds_that_have_its_columns():
    """Names decide."""
    assert Expression("bid_price < ask_price").kinds() == {Kind.QUOTES, Kind.TAQ, Kind.OPTIONS}
    assert Kind.STATUS in Expression("symbol == 'X'").kinds()
    assert not Expression("symbol == 'X'").kinds() & {Kind.CONTROL, Kind.QUARANTINE}
    with pytest.raises(ConfigurationError, match="no kind of event has all of the columns bid_price, open"):
        Expression("open > 0 and bid_price > 0").kinds()


def test_columns_with_nulls_of_whole_numbers():
    """A whole number that is absent is absent."""
    instruments = Instruments()
    batch = batch_of([Quote(0, 1.0, 2.0)], instruments=instruments)
    assert evaluated("(bid_price + ask_price) / 2", batch) == [1.5]
    assert evaluated("ts_event", batch) == [BASE]
