"""Market data and accounts as users see them, one value per event.

A view over the engine's batches, one type per concept. All are frozen. Prices and sizes are floats, account money is
Decimal; what is absent is None, never NaN, -1 or 0. Symbols are upper-cased on entry, ids keep their case.

Times: `timestamp` (`ts` of a bar) is an aware UTC datetime and `ts_event_ns` beside it the same instant in int64
nanoseconds since the epoch. Either is enough to build a value. A datetime ends at microseconds, so `ts_event_ns` is
the exact one; given both, they must name the same microsecond.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from operator import index
from typing import Annotated, Any, ClassVar, Final, Literal, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from market_data_core.batch import Instrument
from market_data_core.schemas import Origin
from market_data_core.telemetry import HealthState

__all__ = [
    "AccountSummary",
    "Bar",
    "Contract",
    "DepthLevel",
    "EventMeta",
    "Health",
    "Instrument",
    "MarketDepth",
    "OptionChain",
    "OptionContract",
    "OptionGreeks",
    "OptionSnapshot",
    "PortfolioUpdate",
    "Position",
    "PriceBar",
    "Quote",
    "Trade",
    "ns_from_datetime",
    "utc_from_ns",
]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_INT64_MAX: Final = 2**63 - 1


def utc_from_ns(ts_ns: int) -> datetime:
    """Return the aware UTC datetime of int64 UTC nanoseconds; less than a microsecond is cut off."""
    return _EPOCH + timedelta(microseconds=ts_ns // 1000)


def ns_from_datetime(moment: datetime) -> int:
    """Return UTC nanoseconds since the epoch, exactly.

    Raises:
        ValueError: The datetime has no zone, or lies outside what int64 nanoseconds reach (1677 to 2262).
    """
    if moment.utcoffset() is None:
        raise ValueError(f"{moment.isoformat()} has no time zone; give an aware datetime")
    since = moment - _EPOCH
    ts_ns = ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1000
    return _in_int64(ts_ns)


def _in_int64(ts_ns: int) -> int:
    if not -_INT64_MAX - 1 <= ts_ns <= _INT64_MAX:
        raise ValueError(f"{ts_ns} ns is outside the range of int64 nanoseconds")
    return ts_ns


# Numbers are refused: whether one is seconds, milliseconds or nanoseconds would be a guess.
def _utc(value: Any) -> datetime:
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if not isinstance(value, datetime):
        raise ValueError(f"{value!r} is no datetime and no ISO 8601 string")  # noqa: TRY004  pydantic turns ValueError alone into its own
    if value.tzinfo is UTC:
        return value
    if value.utcoffset() is None:
        raise ValueError(f"{value.isoformat()} has no time zone; give an aware datetime")
    try:
        return value.astimezone(UTC)
    except OverflowError as exc:
        raise ValueError(f"{value.isoformat()} does not exist in UTC") from exc


# Whole numbers of any integer type, NumPy's among them, because columns are where they come from.
def _whole_ns(value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ValueError(f"{value!r} is no whole number of nanoseconds")
    return _in_int64(index(value))


# Type checkers take a field with a factory for optional, which each of the two times is; validation has filled both
# before a factory could be called.
def _filled_before() -> Any:
    raise AssertionError("both times are filled before fields are read")


# Takes what the pattern has let through; raises ValueError where there is no such day.
def _real_day(value: str) -> str:
    date.fromisoformat(value)
    return value


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


Symbol = Annotated[str, StringConstraints(strip_whitespace=True, to_upper=True, min_length=1)]
"""A ticker, upper-cased on entry."""
UtcDatetime = Annotated[datetime, BeforeValidator(_utc)]
"""An aware datetime in UTC; other zones are converted, naive ones refused."""
Nanoseconds = Annotated[int, BeforeValidator(_whole_ns)]
"""UTC nanoseconds since the epoch."""
Size = Annotated[float, Field(ge=0.0)]
"""A size or volume in units of the instrument, not lots."""
Expiry = Annotated[str, StringConstraints(pattern=r"^[0-9]{8}$"), AfterValidator(_real_day)]
"""The last trading day as ``YYYYMMDD``."""
Right = Annotated[Literal["C", "P"], BeforeValidator(_upper)]
"""``C`` for a call, ``P`` for a put."""


class Value(BaseModel):
    """Base of all values of this module: frozen, strict about names, without NaN and infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class EventMeta(Value):
    """What the platform itself knows of an event.

    Attributes:
        vendor: Who the event comes from; the same symbol of two vendors is two instruments.
        ts_recv_ns: When it reached us, UTC nanoseconds since the epoch.
        seq: Its place in the log; None before the log has numbered it.
        flags: Bits of `market_data_core.schemas.Flag`.
        origin: How it came to us; ``synthetic`` marks what no market has seen.
    """

    vendor: str
    ts_recv_ns: Nanoseconds
    seq: int | None = None
    flags: int = 0
    origin: Origin = Origin.LIVE


class TimedValue(Value):
    """Base of everything that happens at one instant; fills whichever of the two times is not given."""

    time_field: ClassVar[str] = "timestamp"
    """Name of the datetime that stands beside `ts_event_ns`."""

    _blank: ClassVar[dict[str, Any]] = {}
    _required: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        times = {cls.time_field, "ts_event_ns"}
        fields = {name: field for name, field in cls.model_fields.items() if name not in times}
        cls._required = frozenset(name for name, field in fields.items() if field.is_required())
        cls._blank = {
            name: None
            if name in times or name in cls._required
            else cls.model_fields[name].get_default(call_default_factory=True)
            for name in cls.model_fields
        }

    @model_validator(mode="before")
    @classmethod
    def _fill_times(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        moment, ts_ns = data.get(cls.time_field), data.get("ts_event_ns")
        if ts_ns is None:
            if moment is None:
                raise ValueError(f"{cls.__name__} needs {cls.time_field} or ts_event_ns")
            moment = _utc(moment)
            ts_ns = ns_from_datetime(moment)
        else:
            ts_ns = _whole_ns(ts_ns)
            exact = utc_from_ns(ts_ns)
            if moment is not None and _utc(moment) != exact:
                raise ValueError(f"{cls.time_field} {moment} and ts_event_ns {ts_ns} name different times")
            moment = exact
        return {**data, cls.time_field: moment, "ts_event_ns": ts_ns}

    @classmethod
    def from_ns(cls, ts_event_ns: int, **values: Any) -> Self:
        """Build a value from parts that are known to be right, without the cost of validation.

        Args:
            ts_event_ns: A plain int, UTC nanoseconds since the epoch.
            values: Fields by name, in their final types: symbol upper-cased, what is absent None or left out.

        Raises:
            TypeError: A field is missing or unknown.
        """
        content = cls._blank | values
        if len(content) != len(cls._blank) or not cls._required.issubset(values):
            wrong = sorted((values.keys() - cls._blank.keys()) | (cls._required - values.keys()))
            raise TypeError(f"{cls.__name__}.from_ns: missing or unknown fields: {', '.join(wrong)}")
        content[cls.time_field] = utc_from_ns(ts_event_ns)
        content["ts_event_ns"] = ts_event_ns
        # What model_construct does, at half its cost: these four slots are all the state a model has.
        self = cls.__new__(cls)
        object.__setattr__(self, "__dict__", content)
        object.__setattr__(self, "__pydantic_fields_set__", {*values, cls.time_field, "ts_event_ns"})
        object.__setattr__(self, "__pydantic_extra__", None)
        object.__setattr__(self, "__pydantic_private__", None)
        return self


class Quote(TimedValue):
    """The top of the book and the last trade of one instrument at one time.

    Attributes:
        symbol: Upper-cased.
        bid: Best bid price, in the instrument's currency.
        ask: Best ask price.
        last: Price of the last trade.
        bid_size: Units at the best bid.
        ask_size: Units at the best ask.
        volume: Units traded so far in the session.
        timestamp: The venue's time, UTC, cut to microseconds.
        delayed: True if the vendor holds its data back.
        ts_event_ns: The venue's time, exact.
        meta: What the platform knows of the event, where it was kept.
    """

    symbol: Symbol
    bid: float | None = None
    ask: float | None = None
    last: float | None = None
    bid_size: Size | None = None
    ask_size: Size | None = None
    volume: Size | None = None
    timestamp: UtcDatetime = Field(default_factory=_filled_before)
    delayed: bool = False
    ts_event_ns: Nanoseconds = Field(default_factory=_filled_before)
    meta: EventMeta | None = None

    @property
    def mid(self) -> float | None:
        """The middle of bid and ask; None unless both are there."""
        if self.bid is None or self.ask is None:
            return None
        return (self.bid + self.ask) / 2

    @property
    def price(self) -> float | None:
        """The last trade's price, else the middle of bid and ask, else None."""
        return self.last if self.last is not None else self.mid


class Trade(TimedValue):
    """One trade.

    Attributes:
        symbol: Upper-cased.
        price: In the instrument's currency; may be negative where the instrument can be.
        size: Units traded.
        exchange: Where, in the vendor's own code.
        conditions: The vendor's condition codes.
        trade_id: The venue's id, as given.
        aggressor_side: ``buy`` or ``sell``: who crossed the spread; None where the vendor does not say.
        timestamp: The venue's time, UTC, cut to microseconds.
        delayed: True if the vendor holds its data back.
        ts_event_ns: The venue's time, exact.
        meta: What the platform knows of the event, where it was kept.
    """

    symbol: Symbol
    price: float
    size: Size
    exchange: str | None = None
    conditions: str | None = None
    trade_id: str | None = None
    aggressor_side: str | None = None
    timestamp: UtcDatetime = Field(default_factory=_filled_before)
    delayed: bool = False
    ts_event_ns: Nanoseconds = Field(default_factory=_filled_before)
    meta: EventMeta | None = None


class Bar(TimedValue):
    """Prices of one instrument over one interval, left-closed and right-open.

    Attributes:
        symbol: Upper-cased.
        ts: Start of the interval, UTC.
        open: First price in it.
        high: Highest price in it.
        low: Lowest price in it.
        close: Last price in it.
        volume: Units traded in it; None for bars of quotes, which have none.
        resolution: Its length, such as ``1m``.
        delayed: True if the vendor holds its data back.
        vwap: Average price weighted by size.
        trade_count: Trades in it.
        ts_event_ns: Start of the interval, exact.
        what: The prices it is made of: ``TRADES``, ``MIDPOINT``, ``BID``, ``ASK``.
        session: The trading session it belongs to.
        source: ``internal`` if we made it from ticks, ``external`` if a vendor did.
        revision: How often it was replaced; the highest is the one to read.
        meta: What the platform knows of the event, where it was kept.
    """

    time_field: ClassVar[str] = "ts"

    symbol: Symbol
    ts: UtcDatetime = Field(default_factory=_filled_before)
    open: float
    high: float
    low: float
    close: float
    volume: Size | None = None
    resolution: str = Field(min_length=1)
    delayed: bool = False
    vwap: float | None = None
    trade_count: int | None = Field(default=None, ge=0)
    ts_event_ns: Nanoseconds = Field(default_factory=_filled_before)
    what: str = "TRADES"
    session: str = "ALL"
    source: Literal["internal", "external"] = "internal"
    revision: int = Field(default=0, ge=0)
    meta: EventMeta | None = None


PriceBar = Bar


class DepthLevel(NamedTuple):
    """One level of an order book; ``[price, size]`` in JSON.

    Attributes:
        price: In the instrument's currency.
        size: Units on offer.
    """

    price: float
    size: float


class MarketDepth(TimedValue):
    """The order book of one instrument at one time.

    Attributes:
        symbol: Upper-cased.
        bids: Best first.
        asks: Best first.
        timestamp: The venue's time, UTC, cut to microseconds.
        delayed: True if the vendor holds its data back.
        ts_event_ns: The venue's time, exact.
        meta: What the platform knows of the event, where it was kept.
    """

    symbol: Symbol
    bids: tuple[DepthLevel, ...] = ()
    asks: tuple[DepthLevel, ...] = ()
    timestamp: UtcDatetime = Field(default_factory=_filled_before)
    delayed: bool = False
    ts_event_ns: Nanoseconds = Field(default_factory=_filled_before)
    meta: EventMeta | None = None


class OptionGreeks(Value):
    """What an option model says of an option; None where it does not say.

    Attributes:
        implied_vol: Annualised, 0.2 for 20 %.
        delta: Change of price per unit of the underlying's price.
        gamma: Change of delta per unit of the underlying's price.
        theta: Change of price per day.
        vega: Change of price per point of volatility.
        rho: Change of price per point of interest.
    """

    implied_vol: float | None = None
    delta: float | None = None
    gamma: float | None = None
    theta: float | None = None
    vega: float | None = None
    rho: float | None = None


class OptionSnapshot(TimedValue):
    """One option at one time.

    Attributes:
        symbol: The option's own symbol, upper-cased.
        underlying: The symbol of what it is an option on, upper-cased.
        expiry: Last trading day, ``YYYYMMDD``.
        strike: In the option's currency.
        right: ``C`` or ``P``.
        bid: Best bid price.
        ask: Best ask price.
        last: Price of the last trade.
        volume: Contracts traded so far in the session.
        open_interest: Contracts open.
        underlying_price: What the underlying stood at.
        greeks: What the model says; its implied volatility too.
        timestamp: The venue's time, UTC, cut to microseconds.
        delayed: True if the vendor holds its data back.
        ts_event_ns: The venue's time, exact.
        meta: What the platform knows of the event, where it was kept.
    """

    symbol: Symbol
    underlying: Symbol
    expiry: Expiry
    strike: float
    right: Right
    bid: float | None = None
    ask: float | None = None
    last: float | None = None
    volume: Size | None = None
    open_interest: Size | None = None
    underlying_price: float | None = None
    greeks: OptionGreeks = Field(default_factory=OptionGreeks)
    timestamp: UtcDatetime = Field(default_factory=_filled_before)
    delayed: bool = False
    ts_event_ns: Nanoseconds = Field(default_factory=_filled_before)
    meta: EventMeta | None = None


OptionContract = OptionSnapshot


class OptionChain(TimedValue):
    """Options on one underlying at one time.

    Attributes:
        underlying: Upper-cased.
        underlying_price: What the underlying stood at.
        options: In the order of expiry, strike and right in which the source lists them.
        timestamp: When the chain was put together, UTC, cut to microseconds.
        ts_event_ns: The same, exact.
    """

    underlying: Symbol
    underlying_price: float | None = None
    options: tuple[OptionSnapshot, ...] = ()
    timestamp: UtcDatetime = Field(default_factory=_filled_before)
    ts_event_ns: Nanoseconds = Field(default_factory=_filled_before)


class Contract(Value):
    """What a broker needs to know to find an instrument.

    Attributes:
        symbol: Upper-cased.
        sec_type: The broker's code of the kind: ``STK``, ``OPT``, ``FUT``, ``CASH``, ``IND``, ...
        exchange: Where orders and requests go; ``SMART`` lets the broker choose.
        currency: What it trades in.
        con_id: The broker's own id; None until it has been looked up.
        primary_exchange: Where it is listed; tells apart what ``SMART`` cannot.
        local_symbol: The exchange's own name of it, as given.
        trading_class: The exchange's class of it, as given.
        expiry: ``YYYYMMDD``, or ``YYYYMM`` for the month of a future.
        strike: Of an option.
        right: ``C`` or ``P``.
        multiplier: Units of the underlying per contract.
    """

    symbol: Symbol
    sec_type: str = "STK"
    exchange: str = "SMART"
    currency: str = "USD"
    con_id: int | None = None
    primary_exchange: str | None = None
    local_symbol: str | None = None
    trading_class: str | None = None
    expiry: str | None = Field(default=None, pattern=r"^[0-9]{6}([0-9]{2})?$")
    strike: float | None = None
    right: Right | None = None
    multiplier: float | None = Field(default=None, gt=0)


class Position(Value):
    """What an account holds of one instrument.

    Attributes:
        account_id: As the broker writes it.
        symbol: Upper-cased.
        quantity: Units held, negative if sold short.
        average_cost: Paid per unit, fees included.
        currency: Of all its money.
        market_price: What a unit is at.
        market_value: What all of it is at.
        unrealized_pnl: Profit if it were closed at `market_price`.
        realized_pnl: Profit of what has been closed.
        contract: What exactly is held, where the broker said so.
    """

    account_id: str
    symbol: Symbol
    quantity: Decimal
    average_cost: Decimal
    currency: str = "USD"
    market_price: float | None = None
    market_value: Decimal | None = None
    unrealized_pnl: Decimal | None = None
    realized_pnl: Decimal | None = None
    contract: Contract | None = None


class AccountSummary(TimedValue):
    """The money of one account at one time, all of it in `currency`.

    Attributes:
        account_id: As the broker writes it.
        currency: Of all the amounts.
        net_liquidation: What would be left if everything were closed.
        total_cash: Cash, settled or not.
        buying_power: What could be bought now.
        available_funds: What could be withdrawn or used as margin.
        excess_liquidity: What is left above maintenance margin.
        gross_position_value: Long and short positions, both counted positive.
        initial_margin: Needed to open what is held.
        maintenance_margin: Needed to keep what is held.
        unrealized_pnl: Profit if everything were closed now.
        realized_pnl: Profit of what has been closed.
        timestamp: When the broker said so, UTC, cut to microseconds.
        ts_event_ns: The same, exact.
    """

    account_id: str
    currency: str = "USD"
    net_liquidation: Decimal | None = None
    total_cash: Decimal | None = None
    buying_power: Decimal | None = None
    available_funds: Decimal | None = None
    excess_liquidity: Decimal | None = None
    gross_position_value: Decimal | None = None
    initial_margin: Decimal | None = None
    maintenance_margin: Decimal | None = None
    unrealized_pnl: Decimal | None = None
    realized_pnl: Decimal | None = None
    timestamp: UtcDatetime = Field(default_factory=_filled_before)
    ts_event_ns: Nanoseconds = Field(default_factory=_filled_before)


class PortfolioUpdate(TimedValue):
    """What one account holds at one time.

    Attributes:
        account_id: As the broker writes it.
        unrealized_pnl: Profit if everything were closed now.
        realized_pnl: Profit of what has been closed.
        positions: That account's only.
        timestamp: When the broker said so, UTC, cut to microseconds.
        ts_event_ns: The same, exact.
    """

    account_id: str
    unrealized_pnl: Decimal | None = None
    realized_pnl: Decimal | None = None
    positions: tuple[Position, ...] = ()
    timestamp: UtcDatetime = Field(default_factory=_filled_before)
    ts_event_ns: Nanoseconds = Field(default_factory=_filled_before)

    @model_validator(mode="after")
    def _one_account(self) -> Self:
        others = {p.account_id for p in self.positions} - {self.account_id}
        if others:
            raise ValueError(f"positions of {', '.join(sorted(others))} in an update of account {self.account_id}")
        return self


class Health(Value):
    """How the connection to a provider is.

    A service as a whole speaks in `market_data_core.telemetry.HealthStatus`.

    Attributes:
        provider: Its name.
        state: How it is.
        connected: True while the wire is up; connected is not yet delivering.
        last_heartbeat: When it last gave a sign of life, UTC; None if it never did.
        detail: One sentence for people, or None.
    """

    provider: str
    state: HealthState
    connected: bool
    last_heartbeat: UtcDatetime | None = None
    detail: str | None = None
