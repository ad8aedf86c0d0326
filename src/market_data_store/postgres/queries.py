"""The statements of ``sql/queries.sql`` by name, and the migrations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Final, LiteralString
from typing import Literal as OneOf

from psycopg.sql import SQL, Composable, Composed, Identifier, Literal

Phase = OneOf["both", "pre", "post"]

_FOLDER: Final = resources.files("market_data_store.postgres").joinpath("sql")
_MIGRATION: Final = re.compile(r"(?P<version>\d{4})_\w+(\.(?P<phase>pre|post))?\.sql")
_PHASES: Final[dict[str | None, Phase]] = {None: "both", "pre": "pre", "post": "post"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """A step from one version of the schema to the next.

    Attributes:
        version: The version it leads to; the first is 1.
        name: The file's name.
        phase: ``pre`` and ``post`` as its name says; ``both`` where it says neither.
        sql: What it does.
    """

    version: int
    name: str
    phase: Phase
    sql: LiteralString


def _text(name: str) -> LiteralString:
    # Literal because files of this package are as trustworthy as its code.
    return _FOLDER.joinpath(name).read_text(encoding="utf-8")


def _read_queries() -> dict[str, LiteralString]:
    parts = re.split(r"^-- name: (\w+)$", _text("queries.sql"), flags=re.MULTILINE)
    return {name: sql.strip() for name, sql in zip(parts[1::2], parts[2::2], strict=True)}


QUERIES: Final = _read_queries()
"""Statements by name."""


def query(name: str, *, turn: int = 0, **parts: str | Sequence[str] | Composable) -> Composed:
    """Return a statement with its parts put in: names, alone or in a list, as identifiers, and what is SQL already."""
    return SQL(QUERIES[name]).format(turn=Literal(turn), **{k: _part(p) for k, p in parts.items()})


def _part(part: str | Sequence[str] | Composable) -> Composable:
    if isinstance(part, Composable):
        return part
    return Identifier(part) if isinstance(part, str) else SQL(", ").join(Identifier(p) for p in part)


def read_migrations() -> list[Migration]:
    """Return the migrations, ascending by version; together they make ``schema.sql`` of an empty database."""
    found = [(m, f.name) for f in _FOLDER.iterdir() if (m := _MIGRATION.fullmatch(f.name))]
    steps = [
        Migration(version=int(m["version"]), name=name, phase=_PHASES[m["phase"]], sql=_text(name)) for m, name in found
    ]
    return sorted(steps, key=lambda step: (step.version, step.phase == "post"))


def archive_sql() -> LiteralString:
    """Return what makes the archive, in a database that has TimescaleDB and the schema."""
    return _text("timescale.sql")


def schema_sql() -> LiteralString:
    """Return the whole schema as it is after the last migration."""
    return _text("schema.sql")
