"""Tables in the form that users work with: Arrow, pandas or Polars."""

from __future__ import annotations

import importlib
from typing import Any, Final, Literal

import pyarrow as pa

from market_data_core.errors import ConfigurationError

Form = Literal["arrow", "pandas", "polars"]
"""What rows are returned as."""

FORMS: Final = ("arrow", "pandas", "polars")
_UTC_NS: Final = pa.timestamp("ns", "UTC")
_TIMES: Final = frozenset(
    {"ts_event", "ts_recv", "ts_known", "quote_ts_event", "valid_from", "valid_to", "price_timestamp"}
)


def check_form(form: str) -> None:
    """Refuse a form that there is not, before anything is read for it.

    Raises:
        ConfigurationError: There is no such form, or its package is not installed.
    """
    if form not in FORMS:
        raise ConfigurationError(f"as_ is {form!r}; rows can be had as {', '.join(FORMS)}")
    if form != "arrow":
        package(form)


def in_form(rows: pa.Table, form: Form) -> Any:
    """Return rows in a form.

    Arrow has times as the store does, int64 UTC nanoseconds. The others get them as their own times, in nanoseconds
    and UTC; whole numbers that can be absent stay whole numbers in pandas.

    Raises:
        ConfigurationError: There is no such form, or its package is not installed.
    """
    check_form(form)
    if form == "arrow":
        return rows
    timed = rows.cast(pa.schema([f.with_type(_UTC_NS) if f.name in _TIMES else f for f in rows.schema]))
    if form == "polars":
        return package("polars").from_arrow(timed)
    pandas = package("pandas")
    whole = {pa.int64(): pandas.Int64Dtype(), pa.int32(): pandas.Int32Dtype()}
    return timed.to_pandas(types_mapper=whole.get)


def package(name: str) -> Any:
    """Return an optional package.

    Raises:
        ConfigurationError: It is not installed; says how.
    """
    try:
        return importlib.import_module(name)
    except ImportError as exc:
        raise ConfigurationError(
            f"{name} is not installed; pip install 'market-data-platform[research]' brings it"
        ) from exc
