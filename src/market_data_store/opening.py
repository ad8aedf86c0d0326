"""Which store an address names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from market_data_core.addresses import check_store, is_postgres

if TYPE_CHECKING:  # columns and servers cost a start what only their users have to pay
    from market_data_store.backend import Backend


def open_backend(
    dsn: str,
    tenant: str,
    *,
    pool_max: int = 10,
    timeout_s: float = 10.0,
    statement_timeout_s: float | None = None,
) -> Backend:
    """Return one tenant's data in the store that an address names.

    Nothing is made, repaired or connected to yet; that is for the backend's own ``open``, which readers do not need.

    Args:
        dsn: A folder, ``file://`` URL or ``s3://bucket/prefix`` for the embedded lake, ``postgresql://`` for
            PostgreSQL.
        tenant: Whose data.
        pool_max: PostgreSQL: how many connections at once.
        timeout_s: PostgreSQL: how long to wait for a connection before the server counts as away.
        statement_timeout_s: PostgreSQL: how long a statement may take; None for as long as it needs.

    Raises:
        ConfigurationError: The address names no store that there is, or the tenant's name is not one.
    """
    check_store(dsn)
    if is_postgres(dsn):
        from market_data_store.postgres import PostgresStore  # noqa: PLC0415  the driver is for those who have a server

        return PostgresStore(
            dsn, tenant, connections=pool_max, timeout_s=timeout_s, statement_timeout_s=statement_timeout_s
        )
    from market_data_store.lake import Lake  # noqa: PLC0415  as above

    return Lake(dsn, tenant)
