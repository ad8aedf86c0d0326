"""Results of queries as their callers like to read them: JSON, CSV or an Arrow stream."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterator
from typing import Final, Literal

import orjson
import pyarrow as pa
import pyarrow.csv as pc_csv
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from market_data_store.query import QueryResult

Form = Literal["json", "csv", "arrow"]
MEDIA_TYPES: Final[dict[Form, str]] = {
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "arrow": "application/vnd.apache.arrow.stream",
}
TRUNCATED_HEADER: Final = "X-Truncated"

_ACCEPTED: Final[dict[str, Form]] = {
    "application/json": "json",
    "application/*": "json",
    "*/*": "json",
    "text/csv": "csv",
    "text/*": "csv",
    "application/vnd.apache.arrow.stream": "arrow",
}
_JSON_TYPES: Final = (
    *(pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_null),
    *(pa.types.is_string, pa.types.is_large_string),
)
# Turning rows into Python's values holds its lock; in small pieces, whoever receives events waits for none of them.
_CELLS: Final = 4096
_SEND_TIMEOUT_S: Final = 60.0
_PIECE_BYTES: Final = 1 << 18


def form_of(accept: str) -> Form:
    """Return the form that an Accept header asks for, the most wanted one first.

    Raises:
        HTTPException: 406, none of the forms is accepted.
    """
    wanted: list[tuple[float, Form]] = []
    for part in (accept or "*/*").split(","):
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        if name in _ACCEPTED:
            wanted.append((_quality(parameters), _ACCEPTED[name]))
    best = max(wanted, key=lambda pair: pair[0], default=None)
    if best is None or best[0] <= 0:
        raise HTTPException(406, f"Results are given as {', '.join(t.partition(';')[0] for t in MEDIA_TYPES.values())}")
    return best[1]


def render(result: QueryResult, form: Form) -> bytes:
    """Return a result's body. Takes a moment for every ten thousand values: call it in a thread."""
    if form == "arrow":
        return _arrow(result.table)
    if form == "csv":
        return _csv(result.table)
    return b"".join(_json(result))


class SentInTime(Response):
    """An answer that is sent in pieces, given up when its caller does not take it, and that tells when it is over.

    Sent whole, a large body lies in the server's memory for as long as its caller likes.

    Args:
        body: What is sent.
        media_type: What it is.
        headers: Sent with it.
        over: Called once it was sent or given up.
    """

    def __init__(self, body: bytes, *, media_type: str, headers: dict[str, str], over: Callable[[], None]) -> None:
        super().__init__(body, headers=headers, media_type=media_type)
        self._over = over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        del scope, receive
        body = memoryview(self.body)
        try:
            async with asyncio.timeout(_SEND_TIMEOUT_S):
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                for start in range(0, len(body), _PIECE_BYTES):
                    piece = bytes(body[start : start + _PIECE_BYTES])
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
        except TimeoutError as exc:
            raise ClientDisconnect from exc
        finally:
            self._over()


def _quality(parameters: list[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return float(parameter[2:])
            except ValueError:
                return 0.0
    return 1.0


def _arrow(table: pa.Table) -> bytes:
    out = io.BytesIO()
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)
    return out.getvalue()


def _csv(table: pa.Table) -> bytes:
    plain = pa.table([_flat(c) for c in map(_plain, table.columns)], names=table.column_names)
    out = io.BytesIO()
    pc_csv.write_csv(plain, out)
    return out.getvalue()


def _json(result: QueryResult) -> Iterator[bytes]:
    table = result.table
    columns = [{"name": f.name, "type": str(f.type)} for f in table.schema]
    yield b'{"columns":' + orjson.dumps(columns) + b',"rows":['
    plain = [_plain(column) for column in table.columns]
    step = max(_CELLS // max(len(plain), 1), 1)
    for start in range(0, table.num_rows, step):
        cells = [column.slice(start, step).to_pylist() for column in plain]
        rows = orjson.dumps([[*row] for row in zip(*cells, strict=True)], default=str)
        yield (b"," if start else b"") + rows[1:-1]
    tail = orjson.dumps({"truncated": result.truncated, "elapsed_s": round(result.elapsed_s, 6)})
    yield b"]," + tail[1:]


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    # JSON has numbers, texts and truth; dates, decimals and the like are written as text, bytes as hexadecimal digits.
    target = _plain_type(column.type)
    if target == column.type:
        return column
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        return pa.chunked_array([pa.array([None if v is None else v.hex() for v in column.to_pylist()], pa.string())])
    try:
        return column.cast(target)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return pa.chunked_array([pa.array([str(v) if v.is_valid else None for v in column], pa.string())])


def _plain_type(type_: pa.DataType) -> pa.DataType:
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        return pa.list_(_plain_type(type_.value_type))
    if pa.types.is_struct(type_):
        return pa.struct([f.with_type(_plain_type(f.type)) for f in type_])
    return type_ if any(is_plain(type_) for is_plain in _JSON_TYPES) else pa.string()


def _flat(column: pa.ChunkedArray) -> pa.ChunkedArray:
    # CSV has no lists; they are written as JSON.
    if not pa.types.is_nested(column.type):
        return column
    texts = [None if v is None else orjson.dumps(v, default=str).decode() for v in column.to_pylist()]
    return pa.chunked_array([pa.array(texts, pa.string())])
