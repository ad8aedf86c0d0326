"""Rows on their way from a file to a store, which still know where in the file they stood."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from market_data_core.errors import SchemaValidationError


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Some rows of a file, in the columns of a table.

    Attributes:
        rows: In the table's schema; what the file does not have is null.
        unit: What rows of the file are counted in, from 1.
        number: Gives the line or row that a row of `rows`, from 0, stood in; called for bad ones alone.
    """

    rows: pa.RecordBatch
    unit: Literal["line", "row"]
    number: Callable[[int], int]

    def refused(self, name: str, row: int, field: str, why: str) -> SchemaValidationError:
        """Return the error that says which line and field of file `name` cannot be taken, and why."""
        return refused(name, self.unit, self.number(row), field, why)


def refused(name: str, unit: str, number: int, field: str, why: str) -> SchemaValidationError:
    """Return the error that says which line or row and which field of file `name` cannot be taken, and why."""
    where = f", field {field}" if field else ""
    details = {unit: number} | ({"field": field} if field else {})
    return SchemaValidationError(f"{name}, {unit} {number}{where}: {why}", details=details)


def shown(value: object) -> str:
    """Return a value for an error message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
