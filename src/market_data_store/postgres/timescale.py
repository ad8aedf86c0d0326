"""TimescaleDB, as far as it concerns us: whether it is there.

Tables have plain partitions with the extension and without: it neither compresses nor aggregates tables that have row
level security, which all of ours do.
"""

from __future__ import annotations

from market_data_store.postgres.connect import connect
from market_data_store.postgres.errors import translated
from market_data_store.postgres.queries import QUERIES


def timescale_version(dsn: str) -> str | None:
    """Return the version of TimescaleDB that is installed in a database; None where it is not, offered or no.

    Raises:
        ConfigurationError: The dsn is malformed.
        TemporaryUnavailable: The server is away.
    """
    with (
        translated("asking for TimescaleDB"),
        connect(dsn) as connection,
    ):
        found = connection.execute(QUERIES["timescale"]).fetchone()
    return None if found is None else str(found[0])
