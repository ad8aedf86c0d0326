"""Frames of the gateway's text protocol: a 4-byte big-endian length, then fields that each end in NUL."""

from __future__ import annotations

import math
from typing import Final

from market_data_core.errors import ConnectionFailed

MAX_FRAME_BYTES: Final = 16 * 1024 * 1024
"""No message is longer; a length beyond it means that the stream is out of step."""

_LENGTH_BYTES: Final = 4
# What some fields hold where nothing is set: the largest double.
_UNSET: Final = 1.7e308


def encode(*fields: object) -> bytes:
    """Return one frame. None becomes an empty field, True and False ``1`` and ``0``."""
    body = b"".join(_text(value).encode() + b"\0" for value in fields)
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


def encode_raw(body: bytes) -> bytes:
    """Return one frame around bytes that are no fields, as the first of a connection is."""
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "1" if value else "0"
    return str(value)


class FrameReader:
    """Cuts a stream of bytes into messages, however the bytes come.

    Args:
        max_bytes: Longest frame that is taken.
    """

    def __init__(self, *, max_bytes: int = MAX_FRAME_BYTES) -> None:
        self._held = bytearray()
        self._max_bytes = max_bytes

    def feed(self, data: bytes) -> list[list[str]]:
        """Take bytes and return the messages that are complete with them, as fields, in order.

        Raises:
            ConnectionFailed: A frame says it is longer than `max_bytes`; nothing after it can be trusted.
        """
        self._held += data
        found: list[list[str]] = []
        at, end = 0, len(self._held)
        # One cut at the end: cutting after each message would copy the rest as often as there are messages.
        while end - at >= _LENGTH_BYTES:
            length = int.from_bytes(self._held[at : at + _LENGTH_BYTES], "big")
            if length > self._max_bytes:
                raise ConnectionFailed(f"the gateway announced a message of {length} bytes; at most {self._max_bytes}")
            start = at + _LENGTH_BYTES
            if end - start < length:
                break
            at = start + length
            fields = self._held[start:at].decode(errors="replace").split("\0")
            found.append(fields[:-1] if fields[-1] == "" else fields)
        del self._held[:at]
        return found


def number(text: str) -> float | None:
    """Return a number; None where it is not set.

    Raises:
        ValueError: It is none, or not finite.
    """
    if not text:
        return None
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not finite")
    return None if abs(value) > _UNSET else value


def needed(text: str) -> float:
    """Return a number that has to be there.

    Raises:
        ValueError: It is not.
    """
    value = number(text)
    if value is None:
        raise ValueError("a number is missing")
    return value
