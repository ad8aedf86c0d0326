"""What a recorded file looks like, declared and checked before any of it is read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from market_data_core.batch import DEFAULT_DECIMALS
from market_data_core.errors import ConfigurationError
from market_data_core.schemas import KIND_FIELDS, Kind
from market_data_pipeline.source.replay.times import TimeUnit, zone

Column = str | int
"""A column of a file: its name, or its place counted from 0."""

NEEDED: Final[Mapping[Kind, tuple[str, ...]]] = {
    Kind.TRADES: ("price", "size"),
    Kind.QUOTES: ("bid_price", "ask_price"),
}
"""The columns of each kind that a layout must name."""


class Format(StrEnum):
    """How a file is written; the name of each is also how such files' names end."""

    CSV = "csv"
    NDJSON = "ndjson"
    PARQUET = "parquet"


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TimeSpec(_Spec):
    """Where a row's time stands and how to read it.

    Attributes:
        column: The column.
        unit: How it is written.
        zone: IANA name, ``UTC`` or an offset such as ``UTC-05:00``. Counts without one are UTC; ISO 8601 texts without
            an offset need one and are quarantined otherwise.
    """

    column: Column
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


class PathSpec(_Spec):
    """Something read from a file's absolute path (with ``/`` and, in a zip, the member's name at the end).

    Attributes:
        path: Regular expressions with one group; the first that is found gives the value.
    """

    path: tuple[str, ...] = ()

    @field_validator("path")
    @classmethod
    def _one_group(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            try:
                groups = re.compile(pattern).groups
            except re.error as exc:
                raise ValueError(f"{pattern!r} is not a regular expression: {exc}") from exc
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


class Layout(_Spec):
    """A declared file layout.

    Attributes:
        name: Part of the identity of what is read: changing what a layout means asks for another name.
        vendor: Whose data it is.
        kind: What a row is: ``trades`` or ``quotes``.
        format: One or several; a file's name says which.
        files: Name patterns that files of this layout have, such as ``*_trade.zip``.
        members: Name patterns of the parts of a zip; empty means any that ends in a format's name.
        header: Whether the first line names the columns (CSV).
        delimiter: Between columns (CSV).
        quote: Around texts; None if a quote is a character like any other (CSV).
        fields: The file's columns in order, where no header says so (CSV).
        time: The event's time.
        date: Where the day stands in the path, for times that count from midnight.
        symbol: The instrument.
        vendor_column: A column that says the vendor row by row; `vendor` stands where it is empty.
        columns: The platform's column name to the file's; ``flags`` may be one.
        optional: Those of the platform's columns that a file may lack.
        suspicious: A column that is not 0 where the vendor itself doubts the row.
        price_scale: Prices are divided by ten to this.
        size_scale: Sizes are divided by ten to this.
        price_decimals: Digits after the point of the instruments' prices.
        size_decimals: Digits after the point of the instruments' sizes.
        order: ``file`` passes rows on as they stand; ``time`` sorts each file by time, stable, and holds it in memory.
        one_side: ``carry_forward`` for quote files whose rows carry one side: a row whose bid price or bid size is not
            0 replaces the bid, any other the ask, with its values as they stand; the other side stays what it was,
            null while never seen.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    vendor: str = Field(min_length=1)
    kind: Literal[Kind.TRADES, Kind.QUOTES]
    format: tuple[Format, ...] = Field(min_length=1)
    files: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    header: bool = True
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    quote: str | None = Field(default='"', min_length=1, max_length=1)
    fields: tuple[str, ...] = ()
    time: TimeSpec
    date: PathSpec = PathSpec()
    symbol: SymbolSpec
    vendor_column: Column | None = None
    columns: dict[str, Column]
    optional: frozenset[str] = frozenset()
    suspicious: Column | None = None
    price_scale: int = Field(default=0, ge=0, le=18)
    size_scale: int = Field(default=0, ge=0, le=18)
    price_decimals: int = Field(default=DEFAULT_DECIMALS, ge=0, le=18)
    size_decimals: int = Field(default=DEFAULT_DECIMALS, ge=0, le=18)
    order: Literal["file", "time"] = "file"
    one_side: Literal["carry_forward"] | None = None

    @field_validator("format", mode="before")
    @classmethod
    def _as_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _whole(self) -> Self:
        known = {f.name for f in KIND_FIELDS[self.kind]} | {"flags"}
        if unknown := sorted(set(self.columns) - known):
            raise ValueError(f"columns: {self.kind} have no {', '.join(unknown)}; there are {', '.join(sorted(known))}")
        if missing := sorted(set(NEEDED[self.kind]) - set(self.columns)):
            raise ValueError(f"columns: {', '.join(missing)} must be named")
        if stray := sorted(self.optional - (set(self.columns) - set(NEEDED[self.kind]))):
            raise ValueError(f"optional: {', '.join(stray)} cannot be")
        if self.time.unit.since_midnight and not self.date.path:
            raise ValueError("date: times since midnight need the day from the path")
        if not self.delimiter.isascii() or not (self.quote or "'").isascii() or self.delimiter in f"\r\n{self.quote}":
            raise ValueError("delimiter and quote must be different ASCII characters, the delimiter no line end")
        self._check_places()
        if self.one_side and not {"bid_size", "ask_size"} <= set(self.columns) - self.optional:
            raise ValueError("one_side: which side a row carries is told by sizes too; they must be named")
        if self.one_side and (self.kind is not Kind.QUOTES or self.symbol.column is not None):
            raise ValueError("one_side: is for quotes, and a symbol from the path or constant")
        return self

    def _check_places(self) -> None:
        if not self.header and Format.CSV in self.format and not self.fields:
            raise ValueError("fields: a CSV file without a header needs its columns named in order")
        if Format.NDJSON in self.format and any(isinstance(c, int) for c in self.used.values()):
            raise ValueError("columns of NDJSON have names, not places")
        if doubled := [c for c in self.used.values() if list(self.used.values()).count(c) > 1]:
            raise ValueError(f"columns: {doubled[0]!r} is used twice")
        for column in self.used.values() if self.fields else ():
            if column not in self.fields and not (isinstance(column, int) and 0 <= column < len(self.fields)):
                raise ValueError(f"fields: has no {column!r}")

    @property
    def used(self) -> dict[str, Column]:
        """What is read of a file: our column names, ``time``, ``symbol``, ``vendor``, ``suspicious``; to the file's."""
        extra = {
            "time": self.time.column,
            "symbol": self.symbol.column,
            "vendor": self.vendor_column,
            "suspicious": self.suspicious,
        }
        return {**self.columns, **{k: v for k, v in extra.items() if v is not None}}

    def matches_file(self, name: str) -> bool:
        """Return whether a file of that name (without folders) may be of this layout."""
        return any(fnmatchcase(name, pattern) for pattern in self.files)

    def matches_member(self, name: str) -> bool:
        """Return whether a member of a zip, by its name without folders, is of this layout."""
        if self.members:
            return any(fnmatchcase(name, pattern) for pattern in self.members)
        return any(name.lower().endswith("." + f) for f in self.format)


def parse_layout(text: str, *, where: str) -> Layout:
    """Return the layout that a YAML text declares.

    Args:
        text: YAML with the attributes of `Layout`.
        where: Names the text in errors.

    Raises:
        ConfigurationError: It is no layout; names every field that is wrong, and `where`.
    """
    try:
        return Layout.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as exc:
        raise ConfigurationError(f"layout {where} is not YAML: {exc}") from exc
    except ValidationError as exc:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'layout'}: {e['msg']}" for e in exc.errors())
        raise ConfigurationError(f"layout {where}: {wrong}") from exc


@cache
def packaged_layouts() -> Mapping[str, Layout]:
    """Return the layouts that come with the platform, by name, sorted."""
    folder = files(__package__) / "layouts"
    texts = sorted((f.name, f.read_text("utf-8")) for f in folder.iterdir() if f.name.endswith(".yaml"))
    found = [parse_layout(text, where=name) for name, text in texts]
    return {layout.name: layout for layout in found}


def load_layout(layout: str | Path | Layout) -> Layout:
    """Return a layout by the name of a packaged one, or from a YAML file.

    Raises:
        ConfigurationError: No such name or file, or the file declares no layout.
    """
    if isinstance(layout, Layout):
        return layout
    packaged = packaged_layouts()
    if isinstance(layout, str) and layout in packaged:
        return packaged[layout]
    path = Path(layout)
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigurationError(
            f"layout {str(layout)!r} is neither a packaged one ({', '.join(packaged)}) nor a readable file: {exc}"
        ) from exc
    return parse_layout(text, where=str(path))
