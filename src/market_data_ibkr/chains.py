"""Which options there are on an underlying."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

from market_data_core.clock import Clock
from market_data_core.errors import InvalidInstrument, ProviderError
from market_data_core.models import OptionChain, OptionSnapshot
from market_data_ibkr.contracts import Contract
from market_data_ibkr.session import Session
from market_data_ibkr.wire import needed

# New expiries and strikes are listed between sessions.
_LOOK_AGAIN_S: Final = 3600.0
_CON_ID_AT: Final = 12


class Chains:
    """Asks for the options on an underlying.

    Args:
        session: Carries the requests.
        clock: Tells the time.
        timeout_s: How long an answer may take.
    """

    def __init__(self, *, session: Session, clock: Clock, timeout_s: float) -> None:
        self._session = session
        self._clock = clock
        self._timeout_s = timeout_s

    async def changes(
        self, symbol: str, contract: Contract, closed: asyncio.Event
    ) -> AsyncGenerator[OptionChain, None]:
        """Give the chain, and again when other contracts are listed; ends when `closed` is set.

        Raises:
            ProviderError: The gateway refused.
            TemporaryUnavailable: No answer in time.
        """
        con_id = await self._con_id(symbol, contract)
        known: tuple[OptionSnapshot, ...] | None = None
        while not closed.is_set():
            ts_ns = self._clock.now_ns()
            options = await self._options(symbol, contract, con_id, ts_ns)
            names = [option.symbol for option in options]
            if known is None or names != [option.symbol for option in known]:
                known = options
                yield OptionChain.from_ns(ts_ns, underlying=symbol, options=options)
            try:
                async with asyncio.timeout(_LOOK_AGAIN_S):
                    await closed.wait()
            except TimeoutError:
                continue

    async def _con_id(self, symbol: str, contract: Contract) -> str:
        # Not the expired ones, by no other id.
        found = await self._session.ask(
            f"contract of {symbol}",
            lambda number: (9, 8, number, *contract.fields, 0, "", "", ""),
            is_last=lambda fields: fields[0] == "52",
            timeout_s=self._timeout_s,
        )
        details = [fields for fields in found if fields[0] == "10"]
        if not details:
            raise InvalidInstrument(f"the gateway knows no contract for {symbol}")
        if len(details[0]) <= _CON_ID_AT:
            raise ProviderError(f"contract of {symbol}: the answer cannot be read")
        return details[0][_CON_ID_AT]

    # 75,id,exchange,underlying,class,multiplier,n,expiry*,m,strike*
    async def _options(self, symbol: str, contract: Contract, con_id: str, ts_ns: int) -> tuple[OptionSnapshot, ...]:
        found = await self._session.ask(
            f"options on {symbol}",
            lambda number: (78, number, contract.symbol, "", contract.sec_type, con_id),
            is_last=lambda fields: fields[0] == "76",
            timeout_s=self._timeout_s,
        )
        listed: set[tuple[str, float, str]] = set()
        try:
            for fields in found:
                if fields[0] == "75" and fields[2] == "SMART":
                    last = 7 + int(fields[6])
                    strikes = [needed(text) for text in fields[last + 1 : last + 1 + int(fields[last])]]
                    listed |= {(e, k, r) for e in fields[7:last] for k in strikes for r in "CP"}
        except (ValueError, IndexError) as exc:
            raise ProviderError(f"options on {symbol}: the answer cannot be read: {exc}") from exc
        return tuple(
            OptionSnapshot.from_ns(
                ts_ns,
                symbol=f"{contract.symbol}-{expiry}-{strike:g}-{right}:OPT",
                underlying=symbol,
                expiry=expiry,
                strike=strike,
                right=right,
            )
            for expiry, strike, right in sorted(listed)
        )
