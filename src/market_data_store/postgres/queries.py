"""The statements of ``sql/queries.sql`` by name, and the migrations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Final, LiteralString

from psycopg.sql import SQL, Composed, Identifier, Literal

_FOLDER: Final = resources.files("market_data_store.postgres").joinpath("sql")
_MIGRATION: Final = re.compile(r"(\d{4})_\w+\.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """A step from one version of the schema to the next.

    Attributes:
        version: The version it leads to; the first is 1.
        name: The file's name.
        sql: What it does.
    """

    version: int
    name: str
    sql: LiteralString


def _text(name: str) -> LiteralString:
    # Literal because files of this package are as trustworthy as its code.
    return _FOLDER.joinpath(name).read_text(encoding="utf-8")


def _read_queries() -> dict[str, LiteralString]:
    parts = re.split(r"^-- name: (\w+)$", _text("queries.sql"), flags=re.MULTILINE)
    return {name: sql.strip() for name, sql in zip(parts[1::2], parts[2::2], strict=True)}


QUERIES: Final = _read_queries()
"""Statements by name."""


def query(name: str, *, table: str = "", columns: Sequence[str] = (), turn: int = 0) -> Composed:
    """Return a statement with its table, staging table and columns put in as identifiers."""
    return SQL(QUERIES[name]).format(
        table=Identifier(table),
        staging=Identifier(f"staging_{table}"),
        columns=SQL(", ").join(Identifier(c) for c in columns),
        turn=Literal(turn),
    )


def read_migrations() -> list[Migration]:
    """Return the migrations, ascending by version; together they make ``schema.sql`` of an empty database."""
    found = sorted((m[1], f.name) for f in _FOLDER.iterdir() if (m := _MIGRATION.fullmatch(f.name)))
    return [Migration(version=int(number), name=name, sql=_text(name)) for number, name in found]


def schema_sql() -> LiteralString:
    """Return the whole schema as it is after the last migration."""
    return _text("schema.sql")
