"""A provider that keeps to its budget."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from market_data_core.errors import MarketDataError
from market_data_pipeline.breaker import CircuitBreakerOpen
from market_data_pipeline.orchestration.rates import RateCoordinator
from market_data_pipeline.waiting import Closing


class RatedSource:
    """A source whose every connection and request takes a token of its provider's budget.

    How they go is told to the provider's breaker. Where the source can wait, its events come at the provider's scale.

    Args:
        source: With ``stream()`` and ``close()``.
        provider: Name it is registered under.
        rates: Keeps the budget.
    """

    def __init__(self, source: Any, *, provider: str, rates: RateCoordinator) -> None:
        self._source = source
        self._provider = provider
        self._rates = rates

    @property
    def name(self) -> str:
        """Name of the provider."""
        return self._provider

    @property
    def origin(self) -> Any:
        """As the source says; live where it does not."""
        return getattr(self._source, "origin", "live")

    @property
    def symbols(self) -> Any:
        """What the source gives."""
        return getattr(self._source, "symbols", ())

    @property
    def waits(self) -> bool:
        """As the source says."""
        return bool(getattr(self._source, "waits", False))

    @property
    def status(self) -> str | None:
        """As the source says; None where it has no word for it."""
        status = getattr(self._source, "status", None)
        return None if status is None else str(status)

    async def stream(self) -> AsyncGenerator[Any, None]:
        """Give the source's events, after waiting for leave to connect.

        Raises:
            CircuitBreakerOpen: The provider is left alone for now.
        """
        await self._rates.acquire(self._provider)
        told = False
        try:
            events = self._source.stream()
            given = self._rates.paced(self._provider, events) if self.waits else events
            async with aclosing(Closing(events)), aclosing(Closing(given)):
                async for event in given:
                    if not told:
                        told = True
                        await self._rates.record_success(self._provider)
                    yield event
        except Exception:
            await self._rates.record_failure(self._provider)
            raise

    async def get_quote(self, symbol: str) -> Any:
        """Ask the source how a symbol stands, after waiting for leave to ask.

        Raises:
            CircuitBreakerOpen: The provider is left alone for now.
        """
        await self._rates.acquire(self._provider)
        try:
            quote = await self._source.get_quote(symbol)
        except CircuitBreakerOpen:
            raise
        except MarketDataError as exc:
            # An answer that says no is an answer.
            await (self._rates.record_failure if exc.retryable else self._rates.record_success)(self._provider)
            raise
        except Exception:
            await self._rates.record_failure(self._provider)
            raise
        await self._rates.record_success(self._provider)
        return quote

    async def close(self) -> None:
        """Close the source."""
        await self._source.close()
