"""Reads for research: bars, trades and quotes of a span, a session, as known at a time, adjusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from market_data_core.errors import ConfigurationError, ValidationError
from market_data_core.schemas import KEYS, STORED_SCHEMAS, Record, interval_ns
from market_data_store.backend import END_OF_TIME_NS, START_OF_TIME_NS, Backend, Wanted
from mds_client.adjust import Adjust, adjusted, check_adjust
from mds_client.sessions import Session, check_session, in_session

_DAY_NS: Final = 86_400_000_000_000
_ACTIONS: Final = str(Record.CORPORATE_ACTIONS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What is asked for.

    Attributes:
        table: Of which table.
        symbols: Of these instruments; empty for all.
        start_ns: Inclusive, by ``ts_event``, UTC nanoseconds.
        end_ns: Exclusive.
        vendor: One vendor's only; None for all, which are never merged.
        as_of_ns: What was known at that time, UTC nanoseconds: of bars and actions by ``ts_known``, of events by
            ``ts_recv``. None for now.
        session: Which part of the day.
        calendar: Whose day.
        adjust: For what prices are adjusted.
        actions_vendor: Whose corporate actions; None for those of each row's own vendor.
        equal: Further text columns and what they have to be.
        columns: Which columns are returned; all if None.
    """

    table: str
    symbols: tuple[str, ...] = ()
    start_ns: int = START_OF_TIME_NS
    end_ns: int = END_OF_TIME_NS
    vendor: str | None = None
    as_of_ns: int | None = None
    session: Session = "all"
    calendar: str = "XNYS"
    adjust: Adjust = "none"
    actions_vendor: str | None = None
    equal: Mapping[str, str] = field(default_factory=dict)
    columns: Sequence[str] | None = None


def read(backend: Backend, asked: Reading) -> pa.Table:
    """Return rows, in the columns of their table, ascending ``ts_event``, then as `Backend.fetch` orders them.

    Raises:
        ConfigurationError: An option or column is not there, bars are too long for a session, or there is no such
            calendar.
        ValidationError: Prices are to be adjusted and only other vendors have actions of an instrument; names both.
        TemporaryUnavailable: The store is away.
    """
    length_ns = _check(asked)
    rows = backend.fetch(asked.table, wanted_of(asked), columns=_needed(asked))
    if asked.as_of_ns is not None and asked.table not in KEYS:
        rows = rows.filter(pc.less_equal(rows.column("ts_recv"), asked.as_of_ns))
    if asked.session != "all":
        times = rows.column("ts_event").to_numpy()
        inside = in_session(times, session=asked.session, calendar=asked.calendar, length_ns=length_ns)
        rows = rows.filter(pa.array(inside))
    if asked.adjust != "none" and rows.num_rows:
        actions = _actions(backend, asked, rows)
        rows = adjusted(rows, actions, adjust=asked.adjust, any_vendor=asked.actions_vendor is not None)
    return rows if asked.columns is None else rows.select(list(asked.columns))


def wanted_of(asked: Reading) -> Wanted:
    """Return which stored rows are asked for, before session and adjustment.

    Raises:
        ConfigurationError: An option is not there, or bars are too long for a session.
    """
    _check(asked)
    return Wanted(
        start_ns=asked.start_ns,
        end_ns=asked.end_ns,
        vendor=asked.vendor,
        symbols=asked.symbols,
        equal=asked.equal,
        as_of_ns=asked.as_of_ns if asked.table in KEYS else None,
    )


# The length of what is read, 1 ns where it is events.
def _check(asked: Reading) -> int:
    check_session(asked.session)
    check_adjust(asked.adjust)
    interval = asked.equal.get("interval")
    length_ns = 1 if interval is None else interval_ns(interval)
    if asked.session != "all" and length_ns >= _DAY_NS:
        raise ConfigurationError(
            f"session {asked.session} takes parts of a day, and bars of {interval} are not shorter; read session all"
        )
    return length_ns


def _needed(asked: Reading) -> list[str] | None:
    if asked.columns is None:
        return None
    needed = {*asked.columns, "vendor", "symbol", "ts_event", "ts_recv"}
    if "interval" in STORED_SCHEMAS[asked.table].names:
        needed.add("interval")
    unknown = sorted(needed - set(STORED_SCHEMAS[asked.table].names))
    if unknown:
        raise ConfigurationError(f"table {asked.table} has no column {', '.join(unknown)}")
    return [name for name in STORED_SCHEMAS[asked.table].names if name in needed]


# All that lies behind the first row counts, however far behind the last.
def _actions(backend: Backend, asked: Reading, rows: pa.Table) -> pa.Table:
    first_ns = int(np.min(rows.column("ts_event").to_numpy()))
    symbols = tuple(sorted(s for s in pc.unique(rows.column("symbol")).to_pylist() if s is not None))
    found = backend.fetch(_ACTIONS, Wanted(start_ns=first_ns, symbols=symbols, as_of_ns=asked.as_of_ns))
    if asked.actions_vendor is not None:
        return found.filter(pc.equal(found.column("vendor"), asked.actions_vendor))
    have = {(a["symbol"], a["vendor"]) for a in found.select(["symbol", "vendor"]).to_pylist()}
    for pair in rows.group_by(["symbol", "vendor"]).aggregate([]).to_pylist():
        symbol, vendor = pair["symbol"], pair["vendor"]
        others = sorted(v for s, v in have if s == symbol)
        if others and vendor not in others:
            raise ValidationError(
                f"{vendor} has no corporate actions of {symbol}, but {', '.join(others)} has; say actions_vendor="
            )
    return found
