"""The pieces that a layout's declaration is made of."""

from __future__ import annotations

import re
from typing import Final, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from market_data_core.errors import ConfigurationError
from market_data_pipeline.source.replay.times import TimeUnit, zone

Column = str | int
"""A column of a file: its name, or its place counted from 0."""

CONTRACT_PARTS: Final = ("expiry", "strike", "right")
"""What tells an option contract from the others of its underlying."""


class Spec(BaseModel):
    """A frozen value that knows no fields but its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TimeSpec(Spec):
    """Where a row's time stands and how to read it.

    Attributes:
        column: The column; None if the unit is ``day``.
        unit: How it is written; ``day`` if rows have no time of their own: theirs is the midnight at which the day in
            the path begins.
        zone: IANA name, ``UTC`` or an offset such as ``UTC-05:00``. Counts without one are UTC; texts without an
            offset need one and are quarantined otherwise.
    """

    column: Column | None = None
    unit: TimeUnit
    zone: str | None = None

    @field_validator("zone")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                zone(value)
            except ConfigurationError as exc:
                raise ValueError(exc.message) from exc
        return value

    @model_validator(mode="after")
    def _column_or_day(self) -> Self:
        if (self.column is None) != (self.unit is TimeUnit.DAY):
            raise ValueError("column is needed, except with unit day, which has none")
        return self


class PathSpec(Spec):
    """Something read from a file's absolute path (with ``/`` and, in a zip, the member's name at the end).

    Attributes:
        path: Regular expressions with one group; the first that is found gives the value.
    """

    path: tuple[str, ...] = ()

    @field_validator("path")
    @classmethod
    def _one_group(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            groups = _compiled(pattern).groups
            if groups != 1:
                raise ValueError(f"{pattern!r} has {groups} groups, needed is one")
        return value

    def find(self, place: str) -> str | None:
        """Return what the path says, or None."""
        found = (re.search(pattern, place) for pattern in self.path)
        return next((m[1] for m in found if m and m[1]), None)


class SymbolSpec(PathSpec):
    """Where a row's symbol comes from: exactly one of a column, the path, or one and the same for all.

    Attributes:
        column: The column.
        constant: The symbol.
    """

    column: Column | None = None
    constant: str | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.column is not None) + bool(self.path) + bool(self.constant) != 1:
            raise ValueError("exactly one of column, path and constant is needed")
        return self


class ContractSpec(Spec):
    """Says that a layout's symbol is an underlying, and which of its option contracts a row is about.

    Attributes:
        columns: Columns of ``expiry`` (YYYYMMDD), ``strike`` and ``right`` (C or P), all three.
        path: Instead, a regular expression with groups of these names, found in the absolute path; the right may be
            ``call`` or ``put`` too.
        strike_scale: Strikes are divided by ten to this.
        underlying_row: Whether a row with none of the three columns filled is about the underlying itself: it is no
            event, its ``last_price`` is the ``underlying_price`` of the rows below it.
    """

    columns: dict[str, Column] = Field(default_factory=dict)
    path: str | None = None
    strike_scale: int = Field(default=0, ge=0, le=18)
    underlying_row: bool = False

    @field_validator("path")
    @classmethod
    def _named_groups(cls, value: str | None) -> str | None:
        if value is not None and set(_compiled(value).groupindex) != set(CONTRACT_PARTS):
            raise ValueError(f"{value!r} needs groups named {', '.join(CONTRACT_PARTS)}, and no others")
        return value

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if bool(self.columns) == bool(self.path):
            raise ValueError("exactly one of columns and path is needed")
        if self.columns and set(self.columns) != set(CONTRACT_PARTS):
            raise ValueError(f"columns of {', '.join(CONTRACT_PARTS)} are needed, and no others")
        if self.underlying_row and self.path:
            raise ValueError("underlying_row: is for contracts told by columns")
        return self


class EventSpec(Spec):
    """One of the events that a row holds side by side.

    Attributes:
        columns: The platform's column name to the file's: numbers that this event has of its own.
        constants: Texts that tell it from the others, such as ``what: BID``.
    """

    columns: dict[str, Column] = Field(min_length=1)
    constants: dict[str, str] = Field(default_factory=dict)


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as exc:
        raise ValueError(f"{pattern!r} is not a regular expression: {exc}") from exc
