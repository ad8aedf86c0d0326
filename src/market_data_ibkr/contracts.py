"""How instruments are written down, and what the gateway is told of them.

``NAME[:TYPE[:EXCHANGE[:CURRENCY]]]``, in any case:

- ``AAPL``: a stock, routed by SMART, in USD; ``VOD:STK:LSE:GBP`` elsewhere;
- ``EUR.USD:CASH``: a currency pair at IDEALPRO; ``BTC.USD:CRYPTO``;
- ``ES-202412:FUT:CME``: a future by month or last trading day;
- ``AAPL-20241220-150-C:OPT``: an option by last trading day, strike and right;
- ``SPX:IND:CBOE``: an index.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from market_data_core.errors import ConfigurationError

_EXCHANGES: Final = {"STK": "SMART", "CASH": "IDEALPRO", "CRYPTO": "PAXOS", "OPT": "SMART", "FUT": "", "IND": ""}
_NAME: Final = re.compile(r"[A-Z0-9][A-Z0-9 ._/]*")
_PAIR: Final = re.compile(r"([A-Z]{3,5})\.([A-Z]{3,5})")
_FUTURE: Final = re.compile(r"([A-Z0-9]+)-([0-9]{6}|[0-9]{8})")
_OPTION: Final = re.compile(r"([A-Z0-9 .]+)-([0-9]{8})-([0-9]+(?:\.[0-9]+)?)-([CP])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """One instrument in the gateway's terms.

    Attributes:
        symbol: The gateway's name for it, or for what it is a future or option on.
        sec_type: ``STK``, ``CASH``, ``CRYPTO``, ``FUT``, ``OPT`` or ``IND``.
        exchange: Where orders would go.
        currency: What it is priced in.
        expiry: Month or last trading day; empty where it has none.
        strike: Of an option; as written.
        right: ``C`` or ``P`` of an option.
    """

    symbol: str
    sec_type: str = "STK"
    exchange: str = "SMART"
    currency: str = "USD"
    expiry: str = ""
    strike: str = "0"
    right: str = ""

    @property
    def has_tick_by_tick(self) -> bool:
        """Whether its trades can be had one by one: pairs have none, options not live, others hardly."""
        return self.sec_type in {"STK", "FUT"}

    @property
    def fields(self) -> tuple[str, ...]:
        """The twelve fields that stand for it in a request."""
        return (
            *("0", self.symbol, self.sec_type, self.expiry, self.strike, self.right, ""),
            *(self.exchange, "", self.currency, "", ""),
        )


def parse_symbol(symbol: str) -> Contract:
    """Return what a symbol stands for.

    Raises:
        ConfigurationError: It is not in the notation of this module.
    """
    name, sec_type, exchange, currency = _parts(symbol)
    if sec_type in {"CASH", "CRYPTO"}:
        match = _matched(_PAIR, name, symbol, "EUR.USD:CASH")
        if currency and currency != match[2]:
            raise ConfigurationError(f"symbol {symbol!r} names two currencies")
        return Contract(symbol=match[1], sec_type=sec_type, exchange=exchange, currency=match[2])
    currency = currency or "USD"
    if sec_type == "FUT":
        match = _matched(_FUTURE, name, symbol, "ES-202412:FUT:CME")
        return Contract(symbol=match[1], sec_type=sec_type, exchange=exchange, currency=currency, expiry=match[2])
    if sec_type == "OPT":
        match = _matched(_OPTION, name, symbol, "AAPL-20241220-150-C:OPT")
        return Contract(
            symbol=match[1],
            sec_type=sec_type,
            exchange=exchange,
            currency=currency,
            expiry=match[2],
            strike=match[3],
            right=match[4],
        )
    _matched(_NAME, name, symbol, "AAPL")
    return Contract(symbol=name, sec_type=sec_type, exchange=exchange, currency=currency)


def _parts(symbol: str) -> tuple[str, str, str, str]:
    parts = symbol.strip().upper().split(":")
    if len(parts) > 4:
        raise ConfigurationError(f"symbol {symbol!r} has more than NAME:TYPE:EXCHANGE:CURRENCY")
    name, sec_type, exchange, currency = (*parts, *[""] * (4 - len(parts)))
    sec_type = sec_type or "STK"
    if sec_type not in _EXCHANGES:
        raise ConfigurationError(f"symbol {symbol!r}: no type {sec_type!r}; there are: {', '.join(_EXCHANGES)}")
    exchange = exchange or _EXCHANGES[sec_type]
    if not exchange:
        raise ConfigurationError(f"symbol {symbol!r} needs its exchange, as in ES-202412:FUT:CME or SPX:IND:CBOE")
    return name, sec_type, exchange, currency


def _matched(pattern: re.Pattern[str], name: str, symbol: str, example: str) -> re.Match[str]:
    match = pattern.fullmatch(name)
    if match is None:
        raise ConfigurationError(f"symbol {symbol!r} is not written like {example}")
    return match
