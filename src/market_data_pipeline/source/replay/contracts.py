"""Option contracts and their symbols."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from market_data_core.errors import ConfigurationError
from market_data_pipeline.source.replay.specs import ContractSpec

_ROOT_CHARS: Final = 6
_STRIKE_DIGITS: Final = 8  # of them three behind the point


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """An option contract.

    Attributes:
        underlying: Upper-cased.
        expiry: Last day, ``YYYYMMDD``.
        strike: In the underlying's currency.
        right: ``C`` or ``P``.
        symbol: 21 characters, as the options clearing house writes it.
    """

    underlying: str
    expiry: str
    strike: float
    right: str
    symbol: str


def contract_symbols(underlying: str, expiry: pa.Array, strike: pa.Array, right: pa.Array) -> pa.Array:
    """Return the symbols of contracts: ``AAPL  140621C00095000`` is the call at 95 that ends on 2014-06-21.

    Args:
        underlying: At most six characters.
        expiry: Texts, ``YYYYMMDD``.
        strike: Numbers, in whole thousandths.
        right: Texts, ``C`` or ``P``.

    Returns:
        Texts, same order; null where one of the three is missing or not of that form.
    """
    thousandths = pc.round(pc.multiply(strike, 1000.0))
    # Strikes are written with few digits, so what is not whole by more than a float's own error was not to begin with.
    whole = pc.less(pc.abs(pc.subtract(pc.multiply(strike, 1000.0), thousandths)), 1e-3)
    fits = pc.and_(pc.greater_equal(thousandths, 0.0), pc.less(thousandths, 10.0**_STRIKE_DIGITS))
    valid = pc.and_(pc.and_(whole, fits), pc.is_in(right, value_set=pa.array(["C", "P"])))
    days = pc.strptime(pc.utf8_slice_codeunits(expiry, 0, 8), "%Y%m%d", "s", error_is_null=True)
    valid = pc.and_(valid, pc.and_(pc.match_substring_regex(expiry, r"^\d{8}$"), pc.is_valid(days)))
    digits = pc.utf8_lpad(pc.if_else(valid, thousandths, None).cast(pa.int64()).cast(pa.string()), _STRIKE_DIGITS, "0")
    root = pa.scalar(underlying.ljust(_ROOT_CHARS))
    return pc.binary_join_element_wise(root, pc.utf8_slice_codeunits(expiry, 2, 8), right, digits, "")


def check_underlying(underlying: str, place: str) -> None:
    """Check that contracts of an underlying can have a symbol.

    Raises:
        ConfigurationError: It is too long; names `place`.
    """
    if len(underlying) > _ROOT_CHARS:
        raise ConfigurationError(
            f"{place}: underlying {underlying!r} has more than the {_ROOT_CHARS} characters of an option's symbol"
        )


def contract_in_path(spec: ContractSpec, underlying: str, place: str) -> Contract:
    """Return the contract that a path speaks of.

    Raises:
        ConfigurationError: The path shows none, or one that cannot be.
    """
    found = re.search(spec.path or "", place)
    if not found:
        raise ConfigurationError(f"{place} does not show the option contract that its layout takes from the path")
    expiry, right = found["expiry"], found["right"][:1].upper()
    try:
        strike = float(found["strike"]) / 10.0**spec.strike_scale
    except ValueError as exc:
        raise ConfigurationError(f"{place}: strike {found['strike']!r} is not a number") from exc
    symbol = contract_symbols(underlying, pa.array([expiry]), pa.array([strike]), pa.array([right]))[0].as_py()
    if symbol is None:
        raise ConfigurationError(f"{place}: expiry {expiry}, strike {strike:g} and right {right} name no contract")
    return Contract(underlying=underlying, expiry=expiry, strike=strike, right=right, symbol=symbol)
