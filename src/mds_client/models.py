"""The rows of stored data as values: `Bar`, `Fundamentals`, `News`, `OptionSnap`, `LatestPrice`.

All are frozen and say whose they are (`tenant_id`) and who they come from (`vendor`). Symbols are upper-cased on entry.
What is absent is None, and no number is NaN or infinite.

Each has one time that it is about, an aware UTC datetime, and `ts_ns` beside it: the same instant in int64 nanoseconds
since the epoch. A datetime ends at microseconds, so `ts_ns` is the exact one. The datetime alone is enough to build a
value, and so is `ts_ns`; given both, they must name the same microsecond. Text in ISO 8601 may have nine decimals.

Bars and options go to the types of `market_data_core` and back with `to_core` and `from_core`. Fundamentals, news and
latest prices have no type there.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime
from operator import index
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from market_data_core import models as core
from market_data_core.errors import ConfigurationError, ValidationError
from market_data_core.models import Nanoseconds, Size, Symbol, UtcDatetime, ns_from_datetime, utc_from_ns
from market_data_core.schemas import interval_ns
from mds_client.moments import ns_behind_micros

__all__ = ["Bar", "Fundamentals", "LatestPrice", "News", "OptionSnap", "StoredRow"]


# What is outside of int64 nanoseconds cannot be stored; told here, the message names the field that was given.
def _storable(moment: datetime) -> datetime:
    ns_from_datetime(moment)
    return moment


# A date is one instant without a guess, where a datetime without a zone is not.
def _midnight(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(r"\d{4}-\d{2}-\d{2}", value):
        value = date.fromisoformat(value)
    if isinstance(value, date) and not isinstance(value, datetime):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    return value


def _interval(name: str) -> str:
    try:
        interval_ns(name)
    except ConfigurationError as exc:
        raise ValueError(exc.message) from exc
    return name


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


# Numbers are refused: pydantic would take 20240119 for seconds since 1970.
def _day(value: Any) -> Any:
    if not isinstance(value, str | date):
        raise ValueError(f"{value!r} is no date; give one, or text as in 2024-01-19")  # noqa: TRY004  pydantic turns ValueError alone into its own
    if isinstance(value, str) and re.fullmatch(r"\d{8}", value):
        return f"{value[:4]}-{value[4:6]}-{value[6:]}"
    return value


Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
"""A name that is told apart by case."""
Moment = Annotated[UtcDatetime, AfterValidator(_storable)]
"""An aware UTC datetime between 1677 and 2262."""
AsOf = Annotated[UtcDatetime, BeforeValidator(_midnight), AfterValidator(_storable)]
"""A `Moment`; a date is its first moment in UTC."""
Timeframe = Annotated[str, AfterValidator(_interval)]
"""A positive whole count and a unit: ``30s``, ``1m``, ``4h``, ``1d``."""
Day = Annotated[date, BeforeValidator(_day)]
"""A date, ``YYYY-MM-DD`` or ``YYYYMMDD``."""
OptionType = Annotated[Literal["C", "P"], BeforeValidator(_upper)]
"""``C`` for a call, ``P`` for a put."""


class StoredRow(BaseModel):
    """Base of all rows: frozen, strict about names, with one time in two forms.

    Attributes:
        tenant_id: Whose it is.
        vendor: Who it comes from; the same symbol of two vendors is two instruments.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    time_field: ClassVar[str]
    """Name of the datetime that stands beside `ts_ns`."""

    tenant_id: Name
    vendor: Name

    @model_validator(mode="before")
    @classmethod
    def _fill_times(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        moment: Any = data.get(cls.time_field)
        ts_ns: Any = data.get("ts_ns")
        if moment is None and _is_ns(ts_ns):
            return {**data, cls.time_field: utc_from_ns(index(ts_ns))}
        if ts_ns is None and isinstance(moment, str):
            return {**data, "ts_ns": _Given(moment)}
        if ts_ns is None and hasattr(moment, "nanosecond"):
            # What pandas calls a datetime is finer than one.
            return {**data, cls.time_field: moment.to_pydatetime(warn=False), "ts_ns": _Given(moment.nanosecond)}
        return data

    # Declared by each row after its datetime, which is therefore known here.
    @field_validator("ts_ns", mode="before", check_fields=False)
    @classmethod
    def _same_instant(cls, value: Any, info: ValidationInfo) -> Any:
        moment = info.data.get(cls.time_field)
        if moment is None:
            return 0  # the datetime is wrong, which is already told
        if value is None or isinstance(value, _Given):
            return ns_from_datetime(moment) + (value.behind_micros() if value else 0)
        if _is_ns(value) and utc_from_ns(index(value)) != moment:
            raise ValueError(f"{value} is not in the microsecond of {cls.time_field} {moment.isoformat()}")
        return value


class _Given:
    # What a datetime drops of the time it is made of, as text or as nanoseconds, on its way to `ts_ns`.

    def __init__(self, time: str | int) -> None:
        self._time = time

    def behind_micros(self) -> int:
        return ns_behind_micros(self._time) if isinstance(self._time, str) else self._time


# Whole numbers of any integer type, NumPy's among them.
def _is_ns(value: Any) -> bool:
    return not isinstance(value, bool) and hasattr(value, "__index__") and -(2**63) <= index(value) < 2**63


class Bar(StoredRow):
    """Prices of one instrument over one interval, left-closed and right-open.

    Two bars of the same tenant, vendor, symbol, timeframe, time, `what`, `session` and `source` are the same bar.

    Attributes:
        symbol: Upper-cased.
        timeframe: The interval's length, such as ``1m``.
        ts: Its start, UTC.
        open_price: First price in it.
        high_price: Highest price in it.
        low_price: Lowest price in it.
        close_price: Last price in it.
        volume: Units traded in it; None for bars of quotes, which have none.
        id: A name of your own, for bars that travel; a store does not keep it, the key names the bar.
        vwap: Average price weighted by size.
        trade_count: Trades in it.
        what: The prices it is made of: ``TRADES``, ``MIDPOINT``, ``BID``, ``ASK``.
        session: The trading session it belongs to.
        source: ``internal`` if this platform made it from ticks, ``external`` otherwise.
        ts_ns: Its start, exact.
    """

    time_field: ClassVar[str] = "ts"

    symbol: Symbol
    timeframe: Timeframe
    ts: Moment
    open_price: float | None = None
    high_price: float | None = None
    low_price: float | None = None
    close_price: float | None = None
    volume: Size | None = None
    id: str | None = None
    vwap: float | None = None
    trade_count: int | None = Field(default=None, ge=0)
    what: Name = "TRADES"
    session: Name = "ALL"
    source: Literal["internal", "external"] = "external"
    ts_ns: Nanoseconds = Field(default=None, validate_default=True)

    def to_core(self) -> core.Bar:
        """Return it as the platform's own type, which knows no tenant and no vendor.

        Raises:
            ValidationError: One of the four prices is absent, which a bar of the platform has.
        """
        prices = (self.open_price, self.high_price, self.low_price, self.close_price)
        opened, high, low, close = prices
        if opened is None or high is None or low is None or close is None:
            raise ValidationError(f"the {self.timeframe} bar of {self.symbol} at {self.ts.isoformat()} lacks a price")
        return core.Bar.from_ns(
            self.ts_ns,
            symbol=self.symbol,
            open=opened,
            high=high,
            low=low,
            close=close,
            volume=self.volume,
            resolution=self.timeframe,
            vwap=self.vwap,
            trade_count=self.trade_count,
            what=self.what,
            session=self.session,
            source=self.source,
        )

    @classmethod
    def from_core(cls, bar: core.Bar, *, tenant_id: str, vendor: str | None = None) -> Self:
        """Return a bar of the platform as a row.

        Args:
            bar: The bar; `revision` and `delayed` are left behind.
            tenant_id: Whose it will be.
            vendor: Who it comes from; what its `meta` says if None.

        Raises:
            ValidationError: Nobody says who it comes from.
        """
        return cls(
            tenant_id=tenant_id,
            vendor=_vendor_of(bar.symbol, vendor, bar.meta),
            symbol=bar.symbol,
            timeframe=bar.resolution,
            ts=bar.ts,
            open_price=bar.open,
            high_price=bar.high,
            low_price=bar.low,
            close_price=bar.close,
            volume=bar.volume,
            vwap=bar.vwap,
            trade_count=bar.trade_count,
            what=bar.what,
            session=bar.session,
            source=bar.source,
            ts_ns=bar.ts_event_ns,
        )


class Fundamentals(StoredRow):
    """Figures of one company at one date. One row per tenant, vendor, symbol and `asof`.

    Attributes:
        symbol: Upper-cased.
        asof: The date that the figures are of; a date is its first moment in UTC.
        total_assets: In the company's reporting currency, as are the others.
        total_liabilities: In the same.
        net_income: In the same; of the period that ends at `asof`.
        eps: Earnings per share of that period.
        id: A name of your own; a store does not keep it.
        ts_ns: `asof`, exact.
    """

    time_field: ClassVar[str] = "asof"

    symbol: Symbol
    asof: AsOf
    total_assets: float | None = None
    total_liabilities: float | None = None
    net_income: float | None = None
    eps: float | None = None
    id: str | None = None
    ts_ns: Nanoseconds = Field(default=None, validate_default=True)


class News(StoredRow):
    """One piece of news. One row per tenant, vendor and `id`.

    Attributes:
        published_at: When, UTC.
        title: Its headline.
        symbol: Which instrument it is about, upper-cased; None for none in particular.
        url: Where it can be read.
        sentiment_score: From -1, bad for the instrument, to 1, good.
        ts_ns: `published_at`, exact.
        id: The vendor's. Where none is given it is made of vendor, symbol, time, title and address, so the same news
            has the same id every time.
    """

    time_field: ClassVar[str] = "published_at"

    published_at: Moment
    title: str = Field(min_length=1)
    symbol: Symbol | None = None
    url: str | None = None
    sentiment_score: float | None = Field(default=None, ge=-1.0, le=1.0)
    ts_ns: Nanoseconds = Field(default=None, validate_default=True)
    id: Name = Field(default=None, validate_default=True)

    @field_validator("id", mode="before")
    @classmethod
    def _known_by_content(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None:
            return value
        content = [info.data.get(name) for name in ("vendor", "symbol", "ts_ns", "title", "url")]
        # JSON keeps the parts apart: no two contents have the same text.
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


class OptionSnap(StoredRow):
    """One option at one time. One row per tenant, vendor, symbol, expiry, type, strike and time.

    Attributes:
        symbol: The underlying's, upper-cased.
        expiry: Last trading day.
        option_type: ``C`` or ``P``.
        strike: In the option's currency.
        ts: When, UTC.
        iv: Implied volatility, annualised, 0.2 for 20 %.
        delta: Change of price per unit of the underlying's price.
        gamma: Change of delta per unit of the underlying's price.
        oi: Contracts open.
        volume: Contracts traded so far in the session.
        spot: What the underlying stood at.
        theta: Change of price per day.
        vega: Change of price per point of volatility.
        id: A name of your own; a store does not keep it.
        ts_ns: When, exact.
    """

    time_field: ClassVar[str] = "ts"

    symbol: Symbol
    expiry: Day
    option_type: OptionType
    strike: float = Field(gt=0.0)
    ts: Moment
    iv: float | None = None
    delta: float | None = None
    gamma: float | None = None
    oi: Size | None = None
    volume: Size | None = None
    spot: float | None = None
    theta: float | None = None
    vega: float | None = None
    id: str | None = None
    ts_ns: Nanoseconds = Field(default=None, validate_default=True)

    @property
    def contract(self) -> str:
        """The option's own symbol, 21 characters as the OCC writes it: underlying, expiry, type, strike in 1/1000.

        An underlying of more than six letters and a strike that is not whole in 1/1000 have no such symbol; they are
        written out in full.
        """
        thousandths = round(self.strike * 1000)
        whole = thousandths / 1000 == self.strike and thousandths < 10**8
        strike = f"{thousandths:08d}" if whole else repr(self.strike)
        return f"{self.symbol:<6}{self.expiry:%y%m%d}{self.option_type}{strike}"

    def to_core(self) -> core.OptionSnapshot:
        """Return it as the platform's own type, which knows no tenant and no vendor; its symbol is `contract`."""
        return core.OptionSnapshot.from_ns(
            self.ts_ns,
            symbol=self.contract,
            underlying=self.symbol,
            expiry=f"{self.expiry:%Y%m%d}",
            strike=self.strike,
            right=self.option_type,
            volume=self.volume,
            open_interest=self.oi,
            underlying_price=self.spot,
            greeks=core.OptionGreeks(
                implied_vol=self.iv, delta=self.delta, gamma=self.gamma, theta=self.theta, vega=self.vega
            ),
        )

    @classmethod
    def from_core(cls, option: core.OptionSnapshot, *, tenant_id: str, vendor: str | None = None) -> Self:
        """Return an option of the platform as a row.

        Args:
            option: The option; its prices, `rho`, `delayed` and its own symbol are left behind.
            tenant_id: Whose it will be.
            vendor: Who it comes from; what its `meta` says if None.

        Raises:
            ValidationError: Nobody says who it comes from.
        """
        greeks = option.greeks
        return cls(
            tenant_id=tenant_id,
            vendor=_vendor_of(option.symbol, vendor, option.meta),
            symbol=option.underlying,
            expiry=date.fromisoformat(option.expiry),
            option_type=option.right,
            strike=option.strike,
            ts=option.timestamp,
            iv=greeks.implied_vol,
            delta=greeks.delta,
            gamma=greeks.gamma,
            oi=option.open_interest,
            volume=option.volume,
            spot=option.underlying_price,
            theta=greeks.theta,
            vega=greeks.vega,
            ts_ns=option.ts_event_ns,
        )


class LatestPrice(StoredRow):
    """The last price of one instrument.

    Attributes:
        symbol: Upper-cased.
        price: Of the last trade; else the middle of the last quote, else the last close.
        price_timestamp: When, UTC.
        ts_ns: When, exact.
    """

    time_field: ClassVar[str] = "price_timestamp"

    symbol: Symbol
    price: float
    price_timestamp: Moment
    ts_ns: Nanoseconds = Field(default=None, validate_default=True)


def _vendor_of(symbol: str, vendor: str | None, meta: core.EventMeta | None) -> str:
    found = vendor or (meta.vendor if meta else None)
    if not found:
        raise ValidationError(f"nobody says which vendor {symbol} comes from; give vendor=")
    return found
