"""Models as the rows of stored tables, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from typing import Any, Final, TypeVar

import pyarrow as pa

from market_data_core.errors import ConfigurationError, SchemaValidationError
from market_data_core.models import utc_from_ns
from market_data_core.schemas import STORED_SCHEMAS, Kind, Origin, Record
from mds_client.models import Bar, Fundamentals, LatestPrice, News, OptionSnap, StoredRow

__all__ = ["COLUMNS", "TABLES", "latest_prices_from_rows", "models_from_rows", "rows_from_models"]

TABLES: Final[Mapping[type[StoredRow], str]] = {
    Bar: str(Kind.BARS),
    Fundamentals: str(Record.FUNDAMENTALS),
    News: str(Record.NEWS),
    OptionSnap: str(Record.OPTION_SNAPSHOTS),
}
"""The table that each model is a row of."""

COLUMNS: Final[Mapping[type[StoredRow], Mapping[str, str]]] = {
    Bar: {
        "timeframe": "interval",
        "what": "what",
        "session": "session",
        "source": "source",
        "open_price": "open",
        "high_price": "high",
        "low_price": "low",
        "close_price": "close",
        "volume": "volume",
        "vwap": "vwap",
        "trade_count": "trade_count",
    },
    Fundamentals: {name: name for name in ("total_assets", "total_liabilities", "net_income", "eps")},
    News: {name: name for name in ("id", "title", "url", "sentiment_score")},
    OptionSnap: {
        "expiry": "expiry",
        "strike": "strike",
        "option_type": "right",
        "iv": "implied_vol",
        "delta": "delta",
        "gamma": "gamma",
        "vega": "vega",
        "theta": "theta",
        "oi": "open_interest",
        "volume": "volume",
        "spot": "underlying_price",
    },
}
"""The column of each field, beside ``vendor``, ``symbol`` and ``ts_event``, which all have."""

_TO_COLUMN: Final[Mapping[str, Callable[[Any], Any]]] = {"expiry": lambda day: f"{day:%Y%m%d}"}
_TO_FIELD: Final[Mapping[str, Callable[[Any], Any]]] = {"expiry": date.fromisoformat}

_Model = TypeVar("_Model", bound=StoredRow)


def rows_from_models(
    models: Sequence[StoredRow], *, reason: str | None = None, ts_known_ns: int | None = None
) -> pa.Table:
    """Return models of one type as rows to be upserted, in their order.

    ``revision``, ``ts_recv`` and ``seq`` are null: the store settles them. Whose the models are is not in the rows.

    Args:
        models: At least one, all of the same type.
        reason: Why they are stated now; kept with the version they make.
        ts_known_ns: Since when they are known, UTC nanoseconds; when they are stored if None.

    Returns:
        In ``STORED_SCHEMAS`` of the models' table (`TABLES`).

    Raises:
        SchemaValidationError: They are of several types; ``details["row"]`` is the first that differs.
        ConfigurationError: They are no rows of a table, or there are none.
    """
    if not models:
        raise ConfigurationError("there are no models, so nobody can say of which table they are rows")
    kind = type(models[0])
    if kind not in TABLES:
        raise ConfigurationError(f"{kind.__name__} is no row of a table; there are {_names()}")
    for row, model in enumerate(models):
        if type(model) is not kind:
            raise SchemaValidationError(
                f"model {row} is a {type(model).__name__} among models of {kind.__name__}", details={"row": row}
            )
    schema = STORED_SCHEMAS[TABLES[kind]]
    columns = {
        **{name: [getattr(m, name) for m in models] for name in ("vendor", "symbol")},
        "ts_event": [_attribute(m, "ts_ns") for m in models],
    }
    for field, column in COLUMNS[kind].items():
        convert = _TO_COLUMN.get(field)
        values = [getattr(m, field) for m in models]
        columns[column] = values if convert is None else [convert(v) for v in values]
    constants = {"flags": 0, "origin": str(Origin.BACKFILL), "reason": reason, "ts_known": ts_known_ns}
    arrays = [
        pa.array(columns[f.name], f.type)
        if f.name in columns
        else pa.repeat(pa.scalar(constants.get(f.name), f.type), len(models))
        for f in schema
    ]
    return pa.table(arrays, schema=schema)


def models_from_rows(model: type[_Model], rows: pa.Table, *, tenant_id: str) -> list[_Model]:
    """Return stored rows as models, in their order.

    Nothing is checked again: what is stored can always be read.

    Args:
        model: The type of the rows' table.
        rows: Rows with at least the columns that the model has fields for.
        tenant_id: Whose rows.

    Raises:
        ConfigurationError: There is no table of that model.
    """
    if model not in TABLES:
        raise ConfigurationError(f"{model.__name__} is no row of a table; there are {_names()}")
    fields = {"vendor": "vendor", "symbol": "symbol", **COLUMNS[model]}
    return _built(model, rows, fields, tenant_id=tenant_id, time_column="ts_event")


def latest_prices_from_rows(rows: pa.Table, *, tenant_id: str) -> list[LatestPrice]:
    """Return what a backend's ``latest_prices`` gave as models, in their order."""
    fields = {name: name for name in ("vendor", "symbol", "price")}
    return _built(LatestPrice, rows, fields, tenant_id=tenant_id, time_column="price_timestamp")


def _built(
    model: type[_Model], rows: pa.Table, fields: Mapping[str, str], *, tenant_id: str, time_column: str
) -> list[_Model]:
    times = rows.column(time_column).to_pylist()
    columns = []
    for field, column in fields.items():
        values = rows.column(column).to_pylist()
        convert = _TO_FIELD.get(field)
        columns.append(values if convert is None else [v if v is None else convert(v) for v in values])
    names = (*fields, model.time_field, "ts_ns")
    moments = [utc_from_ns(ts_ns) for ts_ns in times]
    return [
        model.model_construct(tenant_id=tenant_id, **dict(zip(names, values, strict=True)))
        for values in zip(*columns, moments, times, strict=True)
    ]


def _attribute(model: StoredRow, name: str) -> Any:
    return getattr(model, name)


def _names() -> str:
    return ", ".join(kind.__name__ for kind in TABLES)
