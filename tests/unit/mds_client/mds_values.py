"""Models for tests, of one tenant and vendor unless they say otherwise."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from mds_client import Bar, Fundamentals, News, OptionSnap

START = datetime(2024, 1, 2, 14, 30, tzinfo=UTC)


def bar(tenant_id, *, minute=0, close=10.0, **values):
    return Bar(
        **{
            "tenant_id": tenant_id,
            "vendor": "acme",
            "symbol": "AAPL",
            "timeframe": "1m",
            "ts": START + timedelta(minutes=minute),
            "open_price": 9.0,
            "high_price": 11.0,
            "low_price": 8.0,
            "close_price": close,
            "volume": 100.0,
            **values,
        }
    )


def fundamentals(tenant_id, **values):
    return Fundamentals(
        **{"tenant_id": tenant_id, "vendor": "acme", "symbol": "AAPL", "asof": START, "eps": 1.5, **values}
    )


def news(tenant_id, **values):
    return News(**{"tenant_id": tenant_id, "vendor": "acme", "published_at": START, "title": "Good news", **values})


def option(tenant_id, **values):
    return OptionSnap(
        **{
            "tenant_id": tenant_id,
            "vendor": "acme",
            "symbol": "AAPL",
            "expiry": date(2024, 1, 19),
            "option_type": "C",
            "strike": 190.5,
            "ts": START,
            "iv": 0.2,
            "delta": 0.5,
            **values,
        }
    )
