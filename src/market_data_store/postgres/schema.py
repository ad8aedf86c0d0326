"""Which version of the schema a database has, and bringing it to ours."""

from __future__ import annotations

from typing import Final

import psycopg

from market_data_core.errors import ConfigurationError
from market_data_store.postgres.connect import check_dsn
from market_data_store.postgres.errors import translated
from market_data_store.postgres.queries import QUERIES, read_migrations

_OLDEST_SERVER: Final = 150_000  # views that check rights of the caller, nulls that are equal in a key


def schema_version(dsn: str) -> int:
    """Return the version of a database's schema; 0 where there is none yet.

    Raises:
        ConfigurationError: The dsn is malformed.
        TemporaryUnavailable: The server is away.
    """
    with (
        translated("reading the schema's version"),
        psycopg.connect(check_dsn(dsn), autocommit=True) as connection,
    ):
        return _version(connection)


def migrate(dsn: str) -> int:
    """Bring a database to the schema of this version of the platform and return that version.

    All missing steps are one transaction. Safe to call by several processes at once, and again.

    Args:
        dsn: Of a role that may make schemas and roles, or that owns what is there.

    Raises:
        ConfigurationError: The role lacks a right, the server is older than PostgreSQL 15, or a later version of the
            platform migrated the database.
        TemporaryUnavailable: The server is away; nothing was changed.
    """
    migrations = read_migrations()
    latest = migrations[-1].version
    with translated("migrating the database"), psycopg.connect(check_dsn(dsn)) as connection:
        if connection.info.server_version < _OLDEST_SERVER:
            raise ConfigurationError(
                f"PostgreSQL 15 or later is needed; the server is {connection.info.parameter_status('server_version')}"
            )
        connection.execute(QUERIES["migrating"])
        version = _version(connection)
        if version > latest:
            raise ConfigurationError(f"the database's schema is version {version}; this platform knows {latest}")
        if version == 0:
            connection.execute(QUERIES["versions_table"])
        for step in migrations[version:]:
            connection.execute(step.sql)
            connection.execute(QUERIES["version_add"], (step.version, step.name))
    return latest


def _version(connection: psycopg.Connection[tuple[object, ...]]) -> int:
    known = connection.execute(QUERIES["version_known"]).fetchone()
    if known is None or not known[0]:
        return 0
    found = connection.execute(QUERIES["version"]).fetchone()
    return int(str(found[0])) if found else 0
