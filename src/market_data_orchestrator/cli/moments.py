"""Times and spans of time as people read them in tables."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from market_data_core.clock import NS_PER_SECOND
from market_data_orchestrator.cli.lines import moment
from mds_client.cli.options import moment as given_ns

From = Annotated[
    str | None,
    typer.Option(
        "--from",
        "--start",
        metavar="TIME",
        help="From this time on: 2024-01-02 (UTC), 2024-01-02T14:30:00Z, or UTC nanoseconds.",
        show_default=False,
    ),
]
To = Annotated[
    str | None,
    typer.Option("--to", "--end", metavar="TIME", help="Before this time; written as --from is.", show_default=False),
]

_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "m"))


def asked_ns(option: str, given: str | None) -> int | None:
    """Return a time given on the command line as UTC nanoseconds since the epoch, None where none was given.

    Raises:
        ConfigurationError: It is none, or has no time zone; names the option.
    """
    return None if given is None else given_ns(given, option)


def shown_time(ts_ns: int) -> str:
    """Return a time in UTC nanoseconds as a date and a time to the millisecond, UTC."""
    whole = moment(ts_ns)
    return f"{whole[:23]}Z" if whole.endswith("Z") else whole


def shown_span(span_ns: int) -> str:
    """Return a length of time in its largest unit, such as ``3.5 h`` or ``120 ms``."""
    seconds = span_ns / NS_PER_SECOND
    for size_s, unit in _UNITS:
        if seconds >= size_s:
            return f"{seconds / size_s:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"
