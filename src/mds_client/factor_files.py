"""Corporate actions from Lean's factor files.

A file has one row ``date,price_factor,split_factor,reference_price`` for each date before something changed. A row's
factors hold for all dates up to its own, back to the row before, and are cumulative: they contain every later action.
An action's own factors are therefore a row's divided by the next row's.
https://github.com/QuantConnect/Lean/tree/master/Data/equity/usa/factor_files
"""

from __future__ import annotations

import csv
import itertools
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pyarrow as pa

from market_data_core.errors import ConfigurationError, SchemaValidationError, TemporaryUnavailable
from market_data_core.models import ns_from_datetime
from market_data_core.schemas import STORED_SCHEMAS, Origin, Record


@dataclass(frozen=True, slots=True)
class _Row:
    day: date
    price_factor: float
    split_factor: float
    reference_price: float


def corporate_actions_from_factor_file(
    path: Path | str, symbol: str, vendor: str, *, zone: str = "America/New_York", known_at_event: bool = False
) -> pa.Table:
    """Read the actions of one instrument.

    Args:
        path: The file.
        symbol: Whose actions.
        vendor: Who they come from.
        zone: Where the file's dates begin and end: an action's time is the first moment after its row's date.
        known_at_event: Say that each action was known when it happened, so that reads with an `as_of` in the past have
            it; else it becomes known when it is stored.

    Returns:
        In the columns of the table ``corporate_actions``, ascending ``ts_event``; ``action`` is ``split`` or
        ``dividend``. Two rows where both fall on the same date.

    Raises:
        ConfigurationError: The file or the zone is not there.
        SchemaValidationError: A line is not of that form; names file and line.
        TemporaryUnavailable: The file cannot be read.
    """
    try:
        midnight = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError) as exc:
        raise ConfigurationError(f"there is no time zone {zone!r}") from exc
    found: list[dict[str, Any]] = []
    for row, following in itertools.pairwise(_read(Path(path))):
        day = row.day + timedelta(days=1)
        ts_ns = ns_from_datetime(datetime(day.year, day.month, day.day, tzinfo=midnight))
        own = {
            "vendor": vendor,
            "symbol": symbol.upper(),
            "ts_event": ts_ns,
            "flags": 0,
            "origin": str(Origin.BACKFILL),
            "reference_price": row.reference_price,
            "ts_known": ts_ns if known_at_event else None,
        }
        split = row.split_factor / following.split_factor
        cash = row.price_factor / following.price_factor
        if split != 1:
            found.append({**own, "action": "split", "split_factor": split, "price_factor": 1.0})
        if cash != 1:
            found.append({**own, "action": "dividend", "split_factor": 1.0, "price_factor": cash})
    return pa.Table.from_pylist(found, schema=STORED_SCHEMAS[Record.CORPORATE_ACTIONS])


def _read(path: Path) -> list[_Row]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [_row(line, path, number) for number, line in enumerate(csv.reader(file), 1) if line]
    except (FileNotFoundError, IsADirectoryError) as exc:
        raise ConfigurationError(f"cannot read {path}: {exc.strerror}") from exc
    except (UnicodeDecodeError, csv.Error) as exc:
        raise SchemaValidationError(f"{path} is not text in columns: {exc}") from exc
    except OSError as exc:
        raise TemporaryUnavailable(f"cannot read {path}: {exc.strerror or exc}") from exc
    return sorted(rows, key=lambda row: row.day)


def _row(line: list[str], path: Path, number: int) -> _Row:
    try:
        day, price, split, reference = line
        row = _Row(date.fromisoformat(day), float(price), float(split), float(reference))
    except ValueError as exc:
        raise SchemaValidationError(
            f"{path}, line {number}: not date,price_factor,split_factor,reference_price: {exc}"
        ) from exc
    # Not a number is not above 0 either.
    if not (0 < row.price_factor < float("inf") and 0 < row.split_factor < float("inf")):
        raise SchemaValidationError(f"{path}, line {number}: a factor is not a number above 0")
    return row
