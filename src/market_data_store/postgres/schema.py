"""Which version of the schema a database has, and bringing it to ours.

A version is one or two files in ``sql``. ``NNNN_what.pre.sql`` runs before the new code: it only adds, so the code of
the version before goes on working. ``NNNN_what.post.sql`` runs when the last of the old code is gone, and takes away
what that needed. So a service of many processes changes without standing still: `migrate` with ``phase="pre"``, new
code in place of old, one process after the other, `migrate` with ``phase="post"``. ``NNNN_what.sql`` is for a change
that can only be made while nothing runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import psycopg

from market_data_core.errors import ConfigurationError
from market_data_store.postgres.connect import connect
from market_data_store.postgres.errors import translated
from market_data_store.postgres.queries import QUERIES, Migration, read_migrations
from market_data_store.postgres.timescale import make_archive

_OLDEST_SERVER: Final = 150_000  # views that check rights of the caller, nulls that are equal in a key


def schema_version(dsn: str) -> int:
    """Return the version of a database's schema; 0 where there is none yet.

    A version counts from its first step on: the code that goes with it works from there.

    Raises:
        ConfigurationError: The dsn is malformed.
        TemporaryUnavailable: The server is away.
    """
    with (
        translated("reading the schema's version"),
        connect(dsn) as connection,
    ):
        return version_of(_applied(connection))


def check_version(dsn: str) -> bool:
    """Return whether a database's schema is one that this code works with, rather than one to be migrated.

    A later version of which only the ``pre`` step was taken is one: that step lets us go on.

    Raises:
        ConfigurationError: The schema is a later one that does not.
        TemporaryUnavailable: The server is away.
    """
    latest = read_migrations()[-1].version
    with (
        translated("reading the schema's version"),
        connect(dsn) as connection,
    ):
        applied = _applied(connection)
    _refuse_later(applied, latest)
    return version_of(applied) >= latest


def migrate(dsn: str, *, phase: Literal["all", "pre", "post"] = "all") -> int:
    """Bring a database to the schema of this version of the platform and return the version it has then.

    All missing steps are one transaction. Safe to call by several processes at once, and again. Where TimescaleDB is
    installed in the database the archive of closed days is made too, now or by the first call after it was installed;
    see `market_data_store.postgres.timescale`.

    Args:
        dsn: Of a role that may make schemas and roles, or that owns what is there.
        phase: ``pre`` takes the steps that old code can live with, ``post`` those that wait for its end, of versions
            whose ``pre`` was taken; ``all`` takes all, while nothing runs.

    Raises:
        ConfigurationError: The role lacks a right, the server is older than PostgreSQL 15, a later version of the
            platform migrated the database, or, with ``pre``, a step of an earlier version has to be taken first.
        TemporaryUnavailable: The server is away; nothing was changed.
    """
    migrations = read_migrations()
    with translated("migrating the database"), connect(dsn, autocommit=False) as connection:
        if connection.info.server_version < _OLDEST_SERVER:
            raise ConfigurationError(
                f"PostgreSQL 15 or later is needed; the server is {connection.info.parameter_status('server_version')}"
            )
        connection.execute(QUERIES["migrating"])
        applied = _applied(connection)
        _refuse_later(applied, migrations[-1].version)
        steps = due(migrations, applied, phase)
        if steps:
            connection.execute(QUERIES["versions_table"])
        for step in steps:
            connection.execute(step.sql)
            connection.execute(QUERIES["version_add"], (step.version, step.name))
        make_archive(connection)
        return version_of(_applied(connection))


def _applied(connection: psycopg.Connection[Any]) -> dict[str, int]:
    # By the file's name, its version.
    known = connection.execute(QUERIES["version_known"]).fetchone()
    if known is None or not known[0]:
        return {}
    return {name: version for version, name in connection.execute(QUERIES["versions"])}


def version_of(applied: Mapping[str, int]) -> int:
    """Return the version of a schema, of whose steps these were taken: by the file's name, its version."""
    return max(applied.values(), default=0)


def _refuse_later(applied: Mapping[str, int], latest: int) -> None:
    later = max((v for name, v in applied.items() if not name.endswith(".pre.sql")), default=0)
    if later > latest:
        raise ConfigurationError(f"the database's schema is version {later}; this platform knows {latest}")


def due(migrations: Sequence[Migration], applied: Mapping[str, int], phase: str) -> list[Migration]:
    """Return the steps to take, in their order.

    Args:
        migrations: All there are, as `read_migrations` gives them.
        applied: Those that a database has seen, by the file's name their version.
        phase: As of `migrate`.

    Raises:
        ConfigurationError: With ``pre``, a step that old code does not survive has to be taken first; says which.
    """
    missing = [m for m in migrations if m.name not in applied]
    if phase == "all" or (phase == "pre" and not applied):
        return missing
    if phase == "post":
        begun = version_of(applied)
        return [m for m in missing if m.phase == "post" and m.version <= begun]
    steps = [m for m in missing if m.phase != "post"]
    # Each version is made for the one before as it is in the end.
    last = steps[-1].version if steps else 0
    for step in missing:
        if step.phase == "both" or (step.phase == "post" and step.version < last):
            raise ConfigurationError(
                f"{step.name} comes first, and old code does not survive it: migrate without a phase"
            )
    return steps
