"""What clients of ``/ws/market`` say, and what they are told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson

from market_data_core.errors import ValidationError
from market_data_core.schemas import Kind

KINDS: Final = (Kind.QUOTES, Kind.TRADES, Kind.BARS, Kind.DEPTH)
"""What can be subscribed to."""

MAX_MESSAGE_CHARS: Final = 256 * 1024
_MAX_CHANNELS: Final = 16
_MAX_SYMBOL_CHARS: Final = 64
_MAX_ID_CHARS: Final = 64

Channel = tuple[Kind, str]
"""A kind and a symbol."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What a client asks for.

    Attributes:
        op: What to do.
        channels: To what, each once, in the order they were named.
        id: What the client calls this message; comes back with the answer.
    """

    op: Literal["subscribe", "unsubscribe", "ping"]
    channels: tuple[Channel, ...] = ()
    id: str | int | None = None


def read_command(text: str | bytes | None) -> Command:
    """Return what a message asks for.

    Raises:
        ValidationError: It is none of ours; its code is ``too_long``, ``bad_message``, ``unknown_op`` or
            ``unknown_kind``, its ``details`` have the ``id`` of the message where it has one.
    """
    if not isinstance(text, str):
        raise ValidationError("send JSON as text", "bad_message")
    if len(text) > MAX_MESSAGE_CHARS:
        raise ValidationError(f"a message has at most {MAX_MESSAGE_CHARS} characters", "too_long")
    try:
        said = orjson.loads(text)
    except ValueError as exc:
        raise ValidationError("this is no JSON", "bad_message") from exc
    if not isinstance(said, dict):
        raise ValidationError('send an object such as {"op": "ping"}', "bad_message")
    id_ = said.get("id")
    if not (id_ is None or type(id_) is int or (isinstance(id_, str) and len(id_) <= _MAX_ID_CHARS)):
        raise ValidationError(f"id is a number or a text of at most {_MAX_ID_CHARS} characters", "bad_message")
    try:
        return _command(said, id_)
    except ValidationError as exc:
        exc.details["id"] = id_
        raise


def answer(type_: str, *, id_: str | int | None = None, **values: Any) -> str:
    """Return a message to a client."""
    named = {} if id_ is None else {"id": id_}
    return orjson.dumps({"type": type_, **named, **values}).decode()


def error(exc: ValidationError) -> str:
    """Return what a client is told of a message that could not be taken."""
    return answer("error", id_=exc.details.get("id"), code=exc.code, detail=exc.message)


def channels_shown(channels: set[Channel]) -> list[dict[str, Any]]:
    """Return channels as clients write them."""
    return [
        {"kind": str(kind), "symbols": sorted(symbol for k, symbol in channels if k is kind)}
        for kind in KINDS
        if any(k is kind for k, _ in channels)
    ]


def _command(said: dict[str, Any], id_: str | int | None) -> Command:
    op = said.get("op")
    if op == "ping":
        return Command(op="ping", id=id_)
    if op not in ("subscribe", "unsubscribe"):
        raise ValidationError("op is subscribe, unsubscribe or ping", "unknown_op")
    channels = said.get("channels")
    if not isinstance(channels, list) or not 0 < len(channels) <= _MAX_CHANNELS:
        raise ValidationError(
            f'channels is a list of 1 to {_MAX_CHANNELS} such as {{"kind": "quotes", "symbols": ["AAPL"]}}',
            "bad_message",
        )
    named = dict.fromkeys(channel for entry in channels for channel in _channels(entry))
    return Command(op=op, channels=tuple(named), id=id_)


def _channels(entry: Any) -> list[Channel]:
    if not isinstance(entry, dict):
        raise ValidationError("a channel is an object with kind and symbols", "bad_message")
    kind, symbols = entry.get("kind"), entry.get("symbols")
    if kind not in KINDS:
        raise ValidationError(f"kind is one of {', '.join(KINDS)}", "unknown_kind")
    whole = isinstance(symbols, list) and all(isinstance(s, str) and 0 < len(s) <= _MAX_SYMBOL_CHARS for s in symbols)
    if not whole or not symbols:
        raise ValidationError(f"symbols is a list of texts of 1 to {_MAX_SYMBOL_CHARS} characters", "bad_message")
    return [(Kind(kind), symbol.upper()) for symbol in symbols]
