"""What a user may ask: one SELECT over the tables of one tenant.

The text is parsed, checked, and written anew from the tree that was checked, so no difference between this parser and
the engine's can carry anything past the check. Run it in the child only: nested array literals make the parser take
time exponential in their depth (18 levels: 15 s), which a child's limits end and a server's loop would not survive.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, NoReturn

import sqlglot
from sqlglot import exp
from sqlglot.dialects.postgres import Postgres
from sqlglot.errors import ErrorLevel, ParseError, TokenError, UnsupportedError

from market_data_core.errors import ValidationError
from market_data_store.query.functions import FUNCTIONS, TABLE_FUNCTIONS

_SHOW_TABLES: Final = re.compile(r"\s*show\s+tables\s*;?\s*", re.IGNORECASE)
_QUERIES: Final = (exp.Select, exp.SetOperation, exp.Subquery, exp.Values)
# None of these can be the root (see _QUERIES); listed for where the parser lets them nest.
_REFUSED: Final = (exp.DDL, exp.DML, exp.Command, exp.Into, exp.Lock, exp.Placeholder, exp.Parameter)
# Grammar rather than functions: FROM, FOR, AS and IN stand between the arguments.
_GRAMMAR: Final = frozenset({"CAST", "EXTRACT", "OVERLAY", "POSITION", "SUBSTRING", "TRIM", "TRY_CAST"})


def _nulls(word: str) -> Any:
    return lambda self, e: f"{self.sql(e, 'this')} {word} NULLS"


class EngineDialect(Postgres):
    """The engine's SQL: Postgres' grammar, functions kept by the name they were called by."""

    class Parser(Postgres.Parser):  # type: ignore[valid-type,misc]  # a class made by a metaclass
        """Knows no function by meaning, so none is renamed on the way and every one is checked by name."""

        FUNCTIONS: ClassVar[dict[str, Any]] = {}
        FUNCTION_PARSERS: ClassVar[dict[str, Any]] = {
            k: v for k, v in Postgres.Parser.FUNCTION_PARSERS.items() if k in _GRAMMAR
        }

    class Generator(Postgres.Generator):  # type: ignore[valid-type,misc]  # a class made by a metaclass
        """Writes as it was what Postgres lacks and the engine has: QUALIFY, semi joins, IGNORE NULLS."""

        TRANSFORMS: ClassVar[dict[Any, Any]] = {
            **{k: v for k, v in Postgres.Generator.TRANSFORMS.items() if k is not exp.Select},
            exp.IgnoreNulls: _nulls("IGNORE"),
            exp.RespectNulls: _nulls("RESPECT"),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A statement that may run.

    Attributes:
        kind: ``select`` and ``describe`` are for the engine; ``tables`` asks for the names of the tables there are.
        sql: The text to run, written from the checked tree; every identifier quoted. Empty for ``tables``.
        tables: Names out of those allowed that it reads, sorted.
    """

    kind: Literal["select", "describe", "tables"]
    sql: str
    tables: tuple[str, ...]


def parse_statement(sql: str, *, tables: Collection[str]) -> Statement:
    """Check a user's SQL and return what to run.

    Args:
        sql: One SELECT (WITH, UNION and subqueries as one likes), DESCRIBE of a table, or SHOW TABLES.
            Identifiers without quotes are lower-cased, as in Postgres.
        tables: Names that may be read.

    Raises:
        ValidationError: Code ``query_refused``; `details` has ``line`` and ``column`` where they are known.
    """
    statement = _parsed(sql, tables)
    if statement.kind != "select":
        return statement
    # What is run is our rewriting: a text that does not mean to us the same when read again, such as a bare
    # `select join trades`, was not understood the first time.
    try:
        again = _parsed(statement.sql, tables)
    except ValidationError as exc:
        raise ValidationError(f"the query cannot be read without doubt: {exc}", "query_refused") from exc
    if again != statement:
        raise ValidationError("the query cannot be read without doubt; write it in full", "query_refused")
    return statement


def reading(statement: Statement, relations: Mapping[str, str]) -> str:
    """Return the text of a checked SELECT that reads other relations in the place of tables, by the tables' names.

    Args:
        statement: As `parse_statement` gives it.
        relations: By the name of a table, what is read instead.
    """
    root = _only_statement(statement.sql)
    # No WITH has the name of a table, so each of these is the table.
    for table in root.find_all(exp.Table):
        if isinstance(table.this, exp.Identifier) and (name := table.name) in relations:
            if not table.alias:
                table.set("alias", exp.TableAlias(this=exp.to_identifier(name, quoted=True)))
            table.set("this", exp.to_identifier(relations[name], quoted=True))
    return _write(root)


def _parsed(sql: str, tables: Collection[str]) -> Statement:
    if _SHOW_TABLES.fullmatch(sql):
        return Statement(kind="tables", sql="", tables=())
    try:
        root = _only_statement(sql)
        for identifier in root.find_all(exp.Identifier):
            if not identifier.args.get("quoted"):
                identifier.set("this", identifier.name.lower())
        if isinstance(root, exp.Describe):
            return _describe(root, tables)
        _check_nodes(root)
        used = tuple(sorted(set(_tables_read(root, tables))))
        return Statement(kind="select", sql=_write(root), tables=used)
    except RecursionError as exc:
        raise ValidationError("the query is nested too deeply", "query_refused") from exc


def _only_statement(sql: str) -> exp.Expression:
    try:
        # A comment after the last semicolon is parsed as a statement of its own.
        found = [s for s in sqlglot.parse(sql, dialect=EngineDialect) if s is not None and type(s) is not exp.Semicolon]
    except ParseError as exc:
        first = exc.errors[0] if exc.errors else {}
        token = str(first.get("highlight") or "")
        text = str(first.get("description") or exc).rstrip(".")
        message = f"cannot parse the query: {text}" + (f", near {token[:60]!r}" if token else "")
        line, end = first.get("line"), first.get("col")
        if line is None or end is None:
            raise ValidationError(message, "query_refused") from exc
        raise _refusal(message, line=line, column=max(1, end - len(token) + 1)) from exc
    except TokenError as exc:
        raise ValidationError(f"cannot parse the query: {str(exc)[:200]}", "query_refused") from exc
    if len(found) != 1:
        raise ValidationError(f"exactly one statement is allowed; there are {len(found)}", "query_refused")
    root = found[0]
    if not isinstance(root, (*_QUERIES, exp.Describe)):
        word = (sql.split(maxsplit=1) or [""])[0][:20].upper()
        raise ValidationError(
            f"only SELECT, DESCRIBE and SHOW TABLES are allowed, not a statement that begins with {word}",
            "query_refused",
        )
    return root


def _describe(root: exp.Describe, tables: Collection[str]) -> Statement:
    extra = [k for k, v in root.args.items() if v and k not in {"this", "kind"}]
    if not isinstance(root.this, exp.Table) or extra or root.args.get("kind"):
        raise ValidationError("DESCRIBE takes the name of one table", "query_refused")
    name = _table_name(root.this)
    if name not in tables:
        _unknown_table(root.this, name, tables)
    return Statement(kind="describe", sql=f'DESCRIBE "{name}"', tables=(name,))


def _check_nodes(root: exp.Expression) -> None:
    for node in root.walk():
        if isinstance(node, _REFUSED):
            _refuse(f"{type(node).__name__.upper()} is not allowed in a query", node)
        if isinstance(node, exp.CTE) and not isinstance(node.this, _QUERIES):
            _refuse("WITH may only name SELECTs", node)
        if isinstance(node, exp.Anonymous) and node.name.lower() not in FUNCTIONS | TABLE_FUNCTIONS:
            # A function in the place of a table is reported as one, by _tables_read.
            if not isinstance(node.parent, exp.Table):
                _refuse(f"function {node.name!r} is not allowed", node)
        elif isinstance(node, exp.AnonymousAggFunc | exp.ParameterizedAgg):
            _refuse(f"function {node.name!r} is not allowed", node)


def _tables_read(root: exp.Expression, tables: Collection[str]) -> Iterator[str]:
    named = set()
    for cte in root.find_all(exp.CTE):
        if cte.alias in tables:
            _refuse(f"WITH cannot take the name of the table {cte.alias!r}", cte.args["alias"].this)
        named.add(cte.alias)
    for table in root.find_all(exp.Table):
        if isinstance(table.this, exp.Func):
            function = table.this.name.lower()
            if not isinstance(table.this, exp.Anonymous) or function not in TABLE_FUNCTIONS or table.db:
                _refuse(
                    f"table function {function!r} is not allowed; allowed: {', '.join(sorted(TABLE_FUNCTIONS))}", table
                )
            continue
        name = _table_name(table)
        if name in named:
            continue  # The engine decides whether it is in scope; it knows no name but these and the tables.
        if name not in tables:
            _unknown_table(table, name, tables)
        yield name


def _table_name(table: exp.Table) -> str:
    if table.db or table.catalog or not isinstance(table.this, exp.Identifier):
        _refuse(f"{table.sql(dialect=EngineDialect)[:100]} is not allowed: name a table without schema or path", table)
    return str(table.name)


def _unknown_table(node: exp.Expression, name: str, tables: Collection[str]) -> NoReturn:
    _refuse(f"there is no table {name[:100]!r}; there are: {', '.join(sorted(tables)) or 'none yet'}", node)


def _refuse(message: str, node: Any) -> NoReturn:
    for place in (n.meta for n in node.walk() if "line" in n.meta):
        # The parser gives the column of a token's last character.
        raise _refusal(message, line=place["line"], column=place["col"] - (place["end"] - place["start"]))
    raise ValidationError(message, "query_refused")


def _refusal(message: str, *, line: int, column: int) -> ValidationError:
    place = {"line": line, "column": column}
    return ValidationError(f"{message} (line {line}, column {column})", "query_refused", place)


def _write(root: exp.Expression) -> str:
    try:
        return str(
            root.sql(
                dialect=EngineDialect,
                identify=True,
                normalize_functions=False,
                comments=False,
                unsupported_level=ErrorLevel.RAISE,
            )
        )
    except UnsupportedError as exc:
        raise ValidationError(f"the query uses what the engine lacks: {exc}", "query_refused") from exc
