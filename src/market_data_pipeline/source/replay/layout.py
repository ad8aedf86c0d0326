"""What a recorded file looks like, declared and checked before any of it is read."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from itertools import chain
from pathlib import Path, PurePath
from typing import Any, Final, Literal, Self

import pyarrow as pa
import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from market_data_core.batch import DEFAULT_DECIMALS
from market_data_core.errors import ConfigurationError
from market_data_core.schemas import KIND_FIELDS, Kind, interval_ns
from market_data_pipeline.source.replay.specs import (
    CONTRACT_PARTS,
    Column,
    ContractSpec,
    EventSpec,
    PathSpec,
    Spec,
    SymbolSpec,
    TimeSpec,
)

NEEDED: Final[Mapping[Kind, tuple[str, ...]]] = {
    Kind.TRADES: ("price", "size"),
    Kind.QUOTES: ("bid_price", "ask_price"),
    Kind.BARS: ("interval", "what", "session", "source", "open", "high", "low", "close"),
    Kind.OPTIONS: (),
}
"""What a layout must say of each kind: the file's columns, or constants."""

_PLATFORMS_OWN: Final = frozenset({"revision", "ts_known", "reason"})  # of bars; no file has a say in them
_PRICE_TYPES: Final = ("TRADES", "BID", "ASK", "MIDPOINT")


class Format(StrEnum):
    """How a file is written; the name of each is also how such files' names end."""

    CSV = "csv"
    NDJSON = "ndjson"
    PARQUET = "parquet"


class Layout(Spec):
    """A declared file layout.

    Attributes:
        name: Part of the identity of what is read: changing what a layout means asks for another name.
        vendor: Whose data it is.
        kind: What a row is: ``trades``, ``quotes``, ``bars`` (``ts_event`` is their start) or ``options``.
        format: One or several; a file's name says which.
        files: Name patterns that files of this layout have, such as ``*_trade.zip``; one with a ``/`` is a pattern of
            the whole absolute path, and its ``*`` spans folders.
        members: Name patterns of the parts of a zip; empty means any that ends in a format's name.
        joined: The members of a zip are one sequence, one behind the other by name, and not a sequence each. For zips
            with very many small ones; ``order: time`` laces them.
        header: Whether the first line names the columns (CSV).
        delimiter: Between columns (CSV).
        quote: Around texts; None if a quote is a character like any other (CSV).
        fields: The file's columns in order, where no header says so (CSV).
        time: The event's time.
        date: Where the day stands in the path, for times that count from midnight.
        symbol: The instrument; with `contract`, the underlying.
        contract: Which option contract of the underlying a row is about. Its symbol is then the 21 characters of the
            options clearing house: ``AAPL  140621C00095000``.
        vendor_column: A column that says the vendor row by row; `vendor` stands where it is empty.
        columns: The platform's column name to the file's; ``flags`` may be one.
        optional: Those of the platform's columns that a file may lack.
        constants: Texts that all rows have, such as ``interval: 1m``.
        events: The events that every row holds side by side, such as the bar of bids and the bar of asks, in the order
            in which they are given. One of which all columns are empty is not there; one of which only some are makes
            the row a bad one, and so do columns that are empty for all.
        zero_is_absent: By column, those that are null with it where the file has 0 in it because it has no value.
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
    kind: Literal[Kind.TRADES, Kind.QUOTES, Kind.BARS, Kind.OPTIONS]
    format: tuple[Format, ...] = Field(min_length=1)
    files: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    joined: bool = False
    header: bool = True
    delimiter: str = Field(default=",", min_length=1, max_length=1)
    quote: str | None = Field(default='"', min_length=1, max_length=1)
    fields: tuple[str, ...] = ()
    time: TimeSpec
    date: PathSpec = PathSpec()
    symbol: SymbolSpec
    contract: ContractSpec | None = None
    vendor_column: Column | None = None
    columns: dict[str, Column] = Field(default_factory=dict)
    optional: frozenset[str] = frozenset()
    constants: dict[str, str] = Field(default_factory=dict)
    events: tuple[EventSpec, ...] = ()
    zero_is_absent: dict[str, tuple[str, ...]] = Field(default_factory=dict)
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
        self._check_columns()
        if self.time.unit.since_midnight and not self.date.path:
            raise ValueError("date: times since midnight need the day from the path")
        if not self.delimiter.isascii() or not (self.quote or "'").isascii() or self.delimiter in f"\r\n{self.quote}":
            raise ValueError("delimiter and quote must be different ASCII characters, the delimiter no line end")
        self._check_places()
        self._check_constants()
        self._check_contract()
        if self.joined and (Format.PARQUET in self.format or self.symbol.column is not None):
            raise ValueError("joined: is for text, and a symbol from the path or constant")
        if self.one_side and not {"bid_size", "ask_size"} <= set(self.columns) - self.optional:
            raise ValueError("one_side: which side a row carries is told by sizes too; they must be named")
        if self.one_side and (self.kind is not Kind.QUOTES or self.symbol.column is not None or self.events):
            raise ValueError("one_side: is for quotes, and a symbol from the path or constant")
        return self

    def _check_columns(self) -> None:
        types = {f.name: f.type for f in KIND_FIELDS[self.kind] if f.name not in _PLATFORMS_OWN}
        common = {*self.columns, *self.constants}
        own: list[set[str]] = [{*e.columns, *e.constants} for e in self.events]
        ever, always = set[str]().union(*own), own[0].intersection(*own[1:]) if own else set[str]()
        known = {*types, "flags"} - ({"underlying", *CONTRACT_PARTS} if self.contract else set())
        if unknown := sorted((common | ever) - known):
            raise ValueError(f"columns: {self.kind} have no {', '.join(unknown)}; there are {', '.join(sorted(known))}")
        if missing := sorted(set(NEEDED[self.kind]) - common - always):
            raise ValueError(f"columns: {', '.join(missing)} must be named")
        if stray := sorted(self.optional - (set(self.columns) - set(NEEDED[self.kind]))):
            raise ValueError(f"optional: {', '.join(stray)} cannot be")
        if twice := sorted(common & ever) or sorted(set(self.columns) & set(self.constants)):
            raise ValueError(f"columns: {', '.join(twice)} said twice")
        if no_number := sorted(n for e in self.events for n in e.columns if types.get(n) != pa.float64()):
            raise ValueError(f"events: {', '.join(no_number)} is no number")
        numbers = {n for n in self.columns if types.get(n) == pa.float64()}
        if strange := sorted({*self.zero_is_absent, *chain(*self.zero_is_absent.values())} - numbers):
            raise ValueError(f"zero_is_absent: {', '.join(strange)} is no number here")

    def _check_constants(self) -> None:
        types = {f.name: f.type for f in KIND_FIELDS[self.kind]}
        for name, text in chain(self.constants.items(), *(e.constants.items() for e in self.events)):
            if types.get(name) != pa.string():
                raise ValueError(f"constants: {name} is no text")
            if name == "what" and text not in _PRICE_TYPES:
                raise ValueError(f"constants: what is {text!r}, not one of {', '.join(_PRICE_TYPES)}")
            if name == "interval":
                try:
                    interval_ns(text)
                except ConfigurationError as exc:
                    raise ValueError(f"constants: {exc.message}") from exc

    def _check_contract(self) -> None:
        if self.kind is Kind.OPTIONS and self.contract is None:
            raise ValueError("contract: options need one")
        if self.contract is None:
            return
        if self.symbol.column is not None or self.vendor_column is not None:
            raise ValueError("contract: the underlying comes from the path or is constant, and the vendor is")
        if self.contract.columns and self.kind is not Kind.OPTIONS:
            raise ValueError("contract: columns of it are for options")
        if self.contract.underlying_row and "last_price" not in self.columns:
            raise ValueError("contract: underlying_row needs a column last_price")

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
        """What is read of a file: our names to the file's.

        Besides columns of the kind there are ``time``, ``symbol``, ``vendor`` and ``suspicious``; those that only the
        n-th of several events in a row has are called ``n.open`` and so on.
        """
        extra = {
            "time": self.time.column,
            "symbol": self.symbol.column,
            "vendor": self.vendor_column,
            "suspicious": self.suspicious,
        }
        contract = self.contract.columns if self.contract else {}
        events = {f"{i}.{n}": c for i, event in enumerate(self.events) for n, c in event.columns.items()}
        return {**self.columns, **contract, **events, **{k: v for k, v in extra.items() if v is not None}}

    def matches_file(self, path: str | PurePath) -> bool:
        """Return whether a file of that path may be of this layout."""
        name, whole = PurePath(path).name, Path(path).absolute().as_posix()
        return any(fnmatchcase(whole if "/" in pattern else name, pattern) for pattern in self.files)

    def matches_member(self, name: str) -> bool:
        """Return whether a member of a zip, by its name without folders, is of this layout."""
        if self.members:
            return any(fnmatchcase(name, pattern) for pattern in self.members)
        return any(name.lower().endswith("." + f) for f in self.format)


def field_of(name: str) -> str:
    """Return which column of its kind one of `Layout.used` is."""
    return name.rpartition(".")[2]


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
