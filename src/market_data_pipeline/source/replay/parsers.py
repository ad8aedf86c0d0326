"""Text to Arrow columns: CSV and lines of JSON, strictly."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson
import pyarrow as pa
import pyarrow.csv as pacsv

from market_data_core.errors import SourceError
from market_data_core.schemas import KIND_FIELDS
from market_data_pipeline.source.replay.files import Part
from market_data_pipeline.source.replay.layout import Layout, field_of

RAW_CHARS: Final = 500
"""How much of a refused row is kept."""

_NUMBER: Final = r"[ \t]*[-+.0-9eE]*[ \t]*"


class Unparsable(Exception):
    """Text that a parser refuses; never leaves the reading of a file.

    Attributes:
        reason: What is wrong.
        found_columns: How many columns there are, if that is what is wrong.
    """

    def __init__(self, reason: str, found_columns: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.found_columns = found_columns


def types_of(layout: Layout) -> dict[str, pa.DataType]:
    """Return the Arrow type that each of `Layout.used` is read as."""
    of_kind = {f.name: pa.int64() if pa.types.is_integer(f.type) else f.type for f in KIND_FIELDS[layout.kind]}
    of_kind |= {"flags": pa.int64(), "suspicious": pa.int64()}
    of_kind["time"] = pa.string() if layout.time.unit.is_text else pa.int64()
    return {ours: of_kind.get(field_of(ours), pa.string()) for ours in layout.used}


def locate(part: Part, names: Sequence[str]) -> dict[str, int]:
    """Return where each of `Layout.used` stands among a file's columns; optional ones that it lacks are left out.

    Raises:
        SourceError: A column is missing, or there twice.
    """
    found: dict[str, int] = {}
    for ours, theirs in part.layout.used.items():
        at = [i for i, name in enumerate(names) if theirs in (i, name)]
        if len(at) == 1:
            found[ours] = at[0]
        elif at or ours not in part.layout.optional:
            how = f"has column {theirs!r} {len(at)} times" if at else f"has no column {theirs!r}"
            raise SourceError(
                f"{part.place} {how}: layout {part.layout.name} expects columns "
                f"{', '.join(map(str, part.layout.used.values()))}; found {', '.join(names)[:RAW_CHARS]}"
            )
    return found


class CsvParser:
    """Parses whole lines of CSV.

    Args:
        part: What is read.
        names: The file's columns.

    Raises:
        SourceError: A column is missing, or there twice.
    """

    def __init__(self, part: Part, names: Sequence[str]) -> None:
        layout = part.layout
        located = locate(part, names)
        types = types_of(layout)
        self._ours = list(located)
        self._types = {ours: types[ours] for ours in located}
        self._names = names
        # Columns go by place: a header may name two alike, of which we want neither.
        keys = [str(i) for i in range(len(names))]
        wanted = [keys[located[ours]] for ours in self._ours]
        self._quote = layout.quote.encode() if layout.quote else b""
        self._read = {"column_names": keys, "use_threads": False}
        self._parse = pacsv.ParseOptions(delimiter=layout.delimiter, quote_char=layout.quote or False)
        self._convert = pacsv.ConvertOptions(
            column_types={keys[located[ours]]: types[ours] for ours in self._ours},
            include_columns=list(dict.fromkeys(wanted)),
            null_values=[""],
            strings_can_be_null=True,
        )
        self._wanted = wanted
        # A guess at good lines, to sort out most of the bad ones before Arrow sees them one by one.
        numbers = {located[ours] for ours in self._ours if not pa.types.is_string(types[ours])}
        other = f"[^{re.escape(layout.delimiter)}]*"
        shape = re.escape(layout.delimiter).join(_NUMBER if i in numbers else other for i in range(len(names)))
        self._shape = re.compile(f"{shape}\\r?$".encode())
        self._delimiter = layout.delimiter.encode()

    def doubtful(self, line: bytes) -> bool:
        """Return whether a line does not look like a row; only a guess, `table` decides."""
        return self._shape.match(line) is None

    def empty(self) -> pa.Table:
        """Return no rows."""
        return pa.table({ours: pa.array([], type_) for ours, type_ in self._types.items()})

    def table(self, data: bytes, count: int) -> pa.Table:
        """Return the columns of `count` lines, all of them or none.

        Raises:
            Unparsable: At least one line is not a row; the reason is to the point if there is but one.
        """
        if b"\r" in data and data.count(b"\r") != data.count(b"\r\n"):
            raise Unparsable("a carriage return inside the row")
        if self._quote and self._quote in data and data.count(self._quote) % 2:
            raise Unparsable("a quote that does not end")
        if count == 1 and (found := self._columns(data)) != len(self._names):
            raise Unparsable(f"expected {len(self._names)} columns, found {found}", found)
        try:
            table = pacsv.read_csv(
                pa.BufferReader(data),
                read_options=pacsv.ReadOptions(block_size=len(data) + 1, **self._read),
                parse_options=self._parse,
                convert_options=self._convert,
            )
        except pa.ArrowInvalid as exc:
            raise self._explained(str(exc)) from exc
        if table.num_rows != count:
            raise Unparsable("not one row on one line")
        return table.select(self._wanted).rename_columns(self._ours)

    # What Arrow would find, without the trouble of asking it; quotes it has to sort out itself.
    def _columns(self, data: bytes) -> int:
        if self._quote and self._quote in data:
            return len(self._names)
        return data.count(self._delimiter) + 1

    def _explained(self, message: str) -> Unparsable:
        if count := re.search(r"Expected (\d+) columns, got (\d+)", message):
            return Unparsable(f"expected {count[1]} columns, found {count[2]}", int(count[2]))
        if value := re.search(
            r"In CSV column #(\d+): (?:Row #\d+: )?(?:CSV conversion error to )?(.*)", message, re.DOTALL
        ):
            return Unparsable(f"column {self._names[int(value[1])]}: {value[2].strip()}"[:RAW_CHARS])
        return Unparsable(message[:RAW_CHARS])


# Through orjson: pyarrow.json ends the process on a line that is just `null`.
class JsonParser:
    """Parses lines with one JSON object each.

    Args:
        layout: How the objects are to be read.
    """

    def __init__(self, layout: Layout) -> None:
        self._types = types_of(layout)
        self._columns = layout.used
        self._optional = layout.optional

    def empty(self) -> pa.Table:
        """Return no rows."""
        return pa.table({ours: pa.array([], type_) for ours, type_ in self._types.items()})

    def table(self, data: bytes, count: int) -> pa.Table:
        """Return the columns of `count` lines, all of them or none.

        Raises:
            Unparsable: At least one line is not a row; the reason is to the point if there is but one.
        """
        try:
            rows = list(map(orjson.loads, data.split(b"\n", count)[:count]))
        except orjson.JSONDecodeError as exc:
            raise Unparsable(f"not JSON: {exc}") from exc
        if not all(type(row) is dict for row in rows):
            raise Unparsable("not a JSON object")
        return pa.table({ours: self._column(ours, rows) for ours in self._types})

    def doubtful(self, line: bytes) -> bool:
        """Return whether a line does not look like a row; only a guess, `table` decides."""
        return not line.startswith(b"{") or not line.rstrip().endswith(b"}")

    def _column(self, ours: str, rows: Sequence[Mapping[Any, Any]]) -> pa.Array:
        theirs, wanted = self._columns[ours], self._types[ours]
        try:
            # Arrow says what it saw before it is told what to make of it: told at once, it would cut 1.5 to 1 and
            # take true for 1.
            seen = pa.array([row.get(theirs) for row in rows])
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError) as exc:
            raise Unparsable(f"{theirs}: {exc}") from exc
        fits = pa.types.is_null(seen.type) or seen.type == wanted
        if not fits and not (pa.types.is_int64(seen.type) and pa.types.is_float64(wanted)):
            raise Unparsable(f"{theirs}: {seen.type} where {wanted} is expected")
        try:
            return seen.cast(wanted)
        except pa.ArrowInvalid as exc:
            raise Unparsable(f"{theirs}: {exc}") from exc


Parser = CsvParser | JsonParser
"""What turns lines into columns."""
