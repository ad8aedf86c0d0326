"""What whoever looks after the database of all tenants may do, and no tenant: name tenants, drop what is too old."""

from __future__ import annotations

from uuid import UUID

from market_data_core.errors import ConfigurationError
from market_data_store.postgres.connect import connect
from market_data_store.postgres.declarations import spec_of
from market_data_store.postgres.errors import translated
from market_data_store.postgres.queries import QUERIES


def retain(dsn: str, table: str, *, before_ns: int) -> list[str]:
    """Drop what a table has from before a time, for every tenant at once, and return the dropped partitions' names.

    Whole partitions go, days or months in UTC, so rows up to a partition older than `before_ns` stay. Of keyed tables
    former versions go with the current ones. It cannot be undone. Who reads such a partition is waited for, up to five
    seconds; appends are disturbed at most once and work when tried again.

    Args:
        dsn: The operator's, of a role that is a member of ``mds_maintainer``; that of the application is refused.
        table: A table with partitions, such as ``trades``.
        before_ns: By ``ts_event``, of quarantine by ``ts_recv``; UTC nanoseconds, exclusive.

    Raises:
        ConfigurationError: No such table is declared, it has no partitions, or the role is not a maintainer's.
        TemporaryUnavailable: The server is away, or somebody reads what is to go; nothing was dropped.
    """
    if spec_of(table).unit is None:
        raise ConfigurationError(f"table {table} has no partitions; its rows are few and stay")
    with (
        translated(f"dropping old partitions of table {table}"),
        connect(dsn) as connection,
    ):
        connection.execute(QUERIES["maintainer"])
        return [str(row[0]) for row in connection.execute(QUERIES["retain"], (table, before_ns))]


def register_tenant(dsn: str, name: str) -> UUID:
    """Give a tenant an id by which it can be named too, and return it; the same when called again.

    Rows bear the tenant's name, so what a tenant stored before it was registered stays its own.

    Args:
        dsn: The operator's, of a role that is a member of ``mds_maintainer``.
        name: 1 to 64 letters, digits, ``_`` and ``-``, and not an id itself.

    Raises:
        SchemaValidationError: The name is not of that form.
        ConfigurationError: The role is not a maintainer's.
        TemporaryUnavailable: The server is away.
    """
    with (
        translated(f"registering tenant {name!r}"),
        connect(dsn) as connection,
    ):
        connection.execute(QUERIES["maintainer"])
        found = connection.execute(QUERIES["tenant_register"], (name,)).fetchone()
    return UUID(str(found[0] if found else None))
