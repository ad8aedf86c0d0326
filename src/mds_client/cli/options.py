"""Options that several commands have."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Final

import typer

from market_data_core.errors import ConfigurationError
from market_data_core.schemas import STORED_SCHEMAS
from market_data_store import open_backend
from market_data_store.backend import END_OF_TIME_NS, START_OF_TIME_NS, Backend, Wanted
from mds_client.transfer.values import ns_of

_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}")

Dsn = Annotated[
    str | None,
    typer.Option(
        envvar="MDS_DSN",
        help="The store: a lake's folder or file:// URL, or postgresql://...; a password is better kept in MDS_DSN.",
    ),
]
TenantId = Annotated[str, typer.Option(envvar="MDS_TENANT_ID", help="Whose data: the tenant's name or UUID.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON value and nothing else.")]
Vendor = Annotated[str | None, typer.Option(help="Only this vendor's.")]
Symbol = Annotated[list[str] | None, typer.Option(help="Only these; may be repeated, or have commas.")]
Timeframe = Annotated[str | None, typer.Option(help="Only bars of this interval, such as 1m.")]
Start = Annotated[
    str | None,
    typer.Option(help="From this time on: 2024-01-02 (UTC), 2024-01-02T14:30:00Z, or UTC nanoseconds."),
]
End = Annotated[str | None, typer.Option(help="Before this time; written as --start is.")]
AsOf = Annotated[str | None, typer.Option(help="What was known at this time; written as --start is.")]
Table = Annotated[str, typer.Argument(help="A stored table, such as trades or bars; `mds tables` lists them.")]
FileFormat = Annotated[
    str | None, typer.Option("--format", help="csv, ndjson or parquet, where the file's name does not say it.")
]

TENANT: Final = "default"


@contextmanager
def opened(dsn: str | None, tenant: str) -> Iterator[Backend]:
    """Give a tenant's data in a store, and close it.

    Raises:
        ConfigurationError: No store was named, or there is none of that form.
    """
    if not dsn:
        raise ConfigurationError("name the store with --dsn or MDS_DSN: a folder, s3://... or postgresql://...")
    backend = open_backend(dsn, tenant)
    try:
        yield backend
    finally:
        backend.close()


def moment(given: str, option: str) -> int:
    """Return a time as UTC nanoseconds.

    Raises:
        ConfigurationError: It is none, or does not say its offset; names the option.
    """
    # A shorter number is a year or a date without its dashes, not the first minutes of 1970.
    if re.fullmatch(r"0|-?\d{15,19}", given):
        value = int(given)
        if START_OF_TIME_NS <= value <= END_OF_TIME_NS:
            return value
    try:
        return ns_of(f"{given}T00:00:00Z" if _DATE.fullmatch(given) else given)
    except ValueError as exc:
        raise ConfigurationError(
            f"{option} {given!r} is no time; write 2024-01-02 (UTC), 2024-01-02T14:30:00Z with an offset, "
            "or UTC nanoseconds"
        ) from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """What the options of a command ask for.

    Attributes:
        vendor, symbols, timeframe, start, end, as_of: As given.
        newest: Of keyed rows the newest version instead of all.
    """

    vendor: str | None = None
    symbols: Sequence[str] | None = None
    timeframe: str | None = None
    start: str | None = None
    end: str | None = None
    as_of: str | None = None
    newest: bool = False

    def wanted(self, table: str) -> Wanted:
        """Return the same as a store understands it.

        Raises:
            ConfigurationError: A time is none, or the table has no intervals.
        """
        if self.timeframe is not None and table in STORED_SCHEMAS and "interval" not in STORED_SCHEMAS[table].names:
            raise ConfigurationError(f"--timeframe is for bars; table {table} has no intervals")
        return Wanted(
            vendor=self.vendor,
            symbols=tuple(names(self.symbols or ())),
            equal={} if self.timeframe is None else {"interval": self.timeframe},
            start_ns=START_OF_TIME_NS if self.start is None else moment(self.start, "--start"),
            end_ns=END_OF_TIME_NS if self.end is None else moment(self.end, "--end"),
            as_of_ns=None if self.as_of is None else moment(self.as_of, "--as-of"),
            versions=not self.newest,
        )


def names(given: Sequence[str]) -> list[str]:
    """Return the symbols in arguments that may have several each, upper-cased."""
    return [s.strip().upper() for text in given for s in text.split(",") if s.strip()]
