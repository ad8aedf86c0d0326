"""Answers of the simulated gateway that take some making: history and contract details."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Final

_UNITS: Final = {"secs": 1, "min": 60, "mins": 60, "hour": 3600, "hours": 3600, "day": 86_400}
_SPANS: Final = {"S": 1, "D": 86_400, "W": 604_800}


def historical_bars(f: list[str], seed: int) -> list[object]:
    """Return the answer to a request of bars: those that begin in the span before its end, all day long.

    Raises:
        ValueError: End, length or span is none the gateway knows.
    """
    end_text, size_text, span_text, what = f[15], f[16], f[17], f[19]
    end_s = int(datetime.strptime(end_text, "%Y%m%d-%H:%M:%S").replace(tzinfo=UTC).timestamp())
    length_s = _length_s(size_text, _UNITS)
    begin_s = end_s - _length_s(span_text, _SPANS)
    rows: list[object] = []
    count = 0
    for at_s in range(-(-begin_s // length_s) * length_s, end_s, length_s):
        rows += _bar(f[3], at_s, length_s, what, seed)
        count += 1
    begin = datetime.fromtimestamp(begin_s, UTC).strftime("%Y%m%d-%H:%M:%S")
    return [17, f[1], begin, end_text, count, *rows]


def _length_s(text: str, units: dict[str, int]) -> int:
    count, _, unit = text.partition(" ")
    if unit not in units:
        raise ValueError(f"{text!r} is no length")
    return int(count) * units[unit]


def _bar(symbol: str, at_s: int, length_s: int, what: str, seed: int) -> list[object]:
    # A function of the bar alone, so that any request gives the same one.
    draw = random.Random(f"{seed}:{symbol}:{at_s}")  # noqa: S311  a market to play with
    low = draw.randrange(9_000, 10_000)
    opened, close, over = draw.randrange(50), draw.randrange(50), draw.randrange(50, 60)
    prices = [(low + part) / 100 for part in (opened, over, 0, close)]
    traded: list[object] = [draw.randrange(1, 90) * 100, (low + 25) / 100, draw.randrange(1, 90)]
    day = datetime.fromtimestamp(at_s, UTC).strftime("%Y%m%d")
    when: object = day if length_s == 86_400 else at_s
    return [when, *prices, *(traded if what == "TRADES" else [-1, -1, -1])]


def contract_details(f: list[str]) -> list[object]:
    """Return the details of the contract that a request names, without security ids."""
    symbol, sec_type, exchange, currency = f[4], f[5], f[10], f[12]
    con_id = 1000 + sum(map(ord, symbol))
    return [
        *(10, f[2], symbol, sec_type, f[6], f[7], f[8], exchange, currency, symbol, symbol, symbol, con_id, 0.01),
        *(f[9], "LMT,MKT", exchange, 1, 0, f"{symbol} INC", "NASDAQ", "", "", "", "", "US/Eastern"),
        *("20240325:0400-20240325:2000;20240326:CLOSED", "20240325:0930-20240325:1600;20240326:CLOSED", "", "", 0),
        *(1, "", "", "26", f[6], "COMMON", "0.0001", "0.0001", 100),
    ]
