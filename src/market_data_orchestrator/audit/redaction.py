"""What may be written down: plain JSON values of bounded size, without secrets."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import Any, Final
from urllib.parse import quote

REDACTED: Final = "[redacted]"

MAX_TEXT_CHARS: Final = 1000
_MAX_ITEMS: Final = 50
_MAX_DEPTH: Final = 6
# A shorter secret would take ordinary words apart; it is hidden where it is the whole value.
_MIN_INSIDE_CHARS: Final = 6

_SECRET_WORDS: Final = frozenset(
    [
        "apikey",
        "auth",
        "authorization",
        "bearer",
        "cookie",
        "cookies",
        "credential",
        "credentials",
        "jwt",
        "key",
        "keys",
        "otp",
        "passphrase",
        "passwd",
        "password",
        "passwords",
        "private",
        "pwd",
        "secret",
        "secrets",
        "session",
        "signature",
        "ticket",
        "token",
        "tokens",
    ]
)
_SECRET_PARTS: Final = ("apikey", "password", "passwd", "secret", "token", "credential")
_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
# Our own keys, JSON web tokens, authorization schemes, and passwords in URLs.
_SECRET_SHAPES: Final = (
    (re.compile(r"mdk_[A-Za-z0-9_-]{8,}"), REDACTED),
    (re.compile(r"eyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?"), REDACTED),
    (re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE), rf"\1 {REDACTED}"),
    (re.compile(r"(://[^/\s:@]*):[^/\s@]+@"), rf"\1:{REDACTED}@"),
    (
        re.compile(
            r"\b((?:api[_-]?key|[a-z_-]{0,20}token|password|passwd|[a-z_-]{0,20}secret)\s*[=:]\s*)[^\s&;,]+",
            re.IGNORECASE,
        ),
        rf"\1{REDACTED}",
    ),
)


def clean(value: Any, *, secrets: Collection[str] = ()) -> Any:
    """Return `value` as plain JSON values without secrets.

    Whatever is named like a secret is replaced whole, at any depth; known secrets and what is shaped like one are
    replaced inside of texts, names of fields among them. Long texts, large collections and deep nesting are cut.

    Args:
        value: Anything.
        secrets: Known secrets.
    """
    known = sorted((s for s in secrets if s), key=len, reverse=True)
    inside = [form for s in known if len(s) >= _MIN_INSIDE_CHARS for form in dict.fromkeys((s, quote(s, safe="")))]
    return _clean(value, frozenset(known), inside, 0)


def _clean(value: Any, known: frozenset[str], inside: list[str], depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        # Beyond 64 bits many readers round, and Python refuses to read the largest.
        return int(value) if abs(value) < 1 << 63 else "[large number]"
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if depth >= _MAX_DEPTH and isinstance(value, Mapping | list | tuple | set | frozenset):
        return "[too deep]"
    if isinstance(value, Mapping):
        return _fields(value, known, inside, depth)
    if isinstance(value, list | tuple | set | frozenset):
        items = list(value)
        kept = [_clean(item, known, inside, depth + 1) for item in items[:_MAX_ITEMS]]
        return [*kept, f"[{len(items) - _MAX_ITEMS} more]"] if len(items) > _MAX_ITEMS else kept
    if isinstance(value, bytes | bytearray):
        return _text(bytes(value).decode("utf-8", "backslashreplace"), known, inside)
    return _text(str(value), known, inside)


def _fields(value: Mapping[Any, Any], known: frozenset[str], inside: list[str], depth: int) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, item in list(value.items())[:_MAX_ITEMS]:
        shown = _text(str(name), known, inside)
        kept[shown] = REDACTED if _is_secret_name(str(name)) else _clean(item, known, inside, depth + 1)
    if len(value) > _MAX_ITEMS:
        kept["[more]"] = len(value) - _MAX_ITEMS
    return kept


def _is_secret_name(name: str) -> bool:
    words = {word.lower() for word in _WORD.findall(name[:200])}
    run = "".join(c for c in name[:200].lower() if c.isalnum())
    return not words.isdisjoint(_SECRET_WORDS) or any(part in run for part in _SECRET_PARTS)


def _text(value: str, known: frozenset[str], inside: list[str]) -> str:
    if value in known:
        return REDACTED
    # Cut first, so a text of megabytes costs nothing, and let go of what may be the beginning of a secret at the cut.
    longest = max((len(secret) for secret in inside), default=0)
    room = MAX_TEXT_CHARS + longest + 1000
    text = value[:room]
    for secret in inside:
        text = text.replace(secret, REDACTED)
    if len(value) > room:
        text = text[: len(text) - longest]
    for shape, instead in _SECRET_SHAPES:
        text = shape.sub(instead, text)
    # Half surrogate pairs are no text; they are shown as what they are.
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= MAX_TEXT_CHARS else text[: MAX_TEXT_CHARS - 1] + "…"
