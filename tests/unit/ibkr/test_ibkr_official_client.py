"""The simulated gateway judged by the vendor's own client, where that is installed (nautilus-ibapi)."""

from __future__ import annotations

import asyncio
import threading

import pytest

from market_data_ibkr.simulator import SimulatedGateway
from support.service import eventually

client = pytest.importorskip("ibapi.client", reason="the vendor's client is not installed")
wrapper = pytest.importorskip("ibapi.wrapper", reason="the vendor's client is not installed")
contract = pytest.importorskip("ibapi.contract", reason="the vendor's client is not installed")


class Judge(wrapper.EWrapper, client.EClient):
    """Keeps what the vendor's decoder made of the gateway's messages."""

    def __init__(self):
        wrapper.EWrapper.__init__(self)
        client.EClient.__init__(self, self)
        self.got = {}

    def _keep(self, name, *values):
        self.got.setdefault(name, []).append(values)

    def nextValidId(self, orderId):  # noqa: N802, N803  the vendor's names
        self._keep("id", orderId)

    def error(self, *values):
        self._keep("error", *values)

    def tickPrice(self, reqId, tickType, price, attrib):  # noqa: N802, N803
        self._keep("price", tickType, price)

    def tickString(self, reqId, tickType, value):  # noqa: N802, N803
        self._keep("string", tickType, value)

    def tickByTickAllLast(self, reqId, tickType, time, price, size, *rest):  # noqa: N802, N803
        self._keep("last", time, price, float(size))

    def historicalData(self, reqId, bar):  # noqa: N802, N803
        self._keep("bar", bar.date, bar.open, bar.high, bar.low, bar.close)

    def historicalDataEnd(self, reqId, start, end):  # noqa: N802, N803
        self._keep("bars", start, end)

    def contractDetails(self, reqId, contractDetails):  # noqa: N802, N803
        self._keep("details", contractDetails.contract.conId, contractDetails.longName)

    def contractDetailsEnd(self, reqId):  # noqa: N802, N803
        self._keep("details_end")

    def securityDefinitionOptionParameter(self, reqId, exchange, conId, cls, multiplier, expirations, strikes):  # noqa: N802, N803, PLR0917
        self._keep("options", exchange, sorted(expirations), sorted(strikes))

    def currentTime(self, time):  # noqa: N802
        self._keep("time", time)

    def positionEnd(self):  # noqa: N802
        self._keep("positions")

    def accountDownloadEnd(self, accountName):  # noqa: N802, N803
        self._keep("account", accountName)

    def realtimeBar(self, reqId, time, *rest):  # noqa: N802, N803
        self._keep("live_bar", time, *rest[:4])


@pytest.fixture
def gateway():
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    made = SimulatedGateway()

    def run(call, *args):
        async def work():
            found = call(*args)
            return await found if asyncio.iscoroutine(found) else found

        return asyncio.run_coroutine_threadsafe(work(), loop).result(10)

    run(made.start)
    yield made, run
    run(made.close)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


def test_the_vendors_client_reads_all_that_the_gateway_says(gateway):
    """Every message decodes to the values that were sent; none makes the client give up."""
    made, run = gateway
    judge = Judge()
    judge.connect("127.0.0.1", made.port, 5)
    reader = threading.Thread(target=judge.run)
    reader.start()
    try:
        eventually(lambda: "id" in judge.got, 10, "the client is let in")
        stock = contract.Contract()
        stock.symbol, stock.secType, stock.exchange, stock.currency = "AAPL", "STK", "SMART", "USD"
        judge.reqMktData(11, stock, "233", False, False, [])
        judge.reqTickByTickData(12, stock, "Last", 0, False)
        judge.reqHistoricalData(13, stock, "20240102-15:00:00", "300 S", "1 min", "TRADES", 0, 2, False, [])
        judge.reqContractDetails(14, stock)
        judge.reqSecDefOptParams(15, "AAPL", "", "STK", 1000)
        judge.reqRealTimeBars(16, stock, 5, "TRADES", False, [])
        judge.reqCurrentTime()
        judge.reqPositions()
        judge.reqAccountUpdates(True, "")
        eventually(lambda: {"account", "time", "positions"} <= judge.got.keys(), 10, "everything is answered")
        run(made.step)
        run(made.bar, "AAPL", 1_704_196_800, (1.0, 2.0, 0.5, 1.5), 100)
        wanted = {"price", "string", "last", "bar", "bars", "details", "details_end", "options", "live_bar"}
        eventually(lambda: wanted <= judge.got.keys(), 10, "everything is given")
    finally:
        judge.disconnect()
        reader.join(10)
    assert judge.got["last"] == made.trades["AAPL"]
    bids = [price for tick, price in judge.got["price"] if tick == 1]
    assert bids == [made.quotes["AAPL"][0][0], made.quotes["AAPL"][-1][0]]
    assert len(judge.got["bar"]) == 5
    assert judge.got["options"][0][1:] == (["20241220", "20250117"], [140.0, 150.0, 152.5])
    assert judge.got["live_bar"] == [(1_704_196_800, 1.0, 2.0, 0.5, 1.5)]
    assert judge.isConnected() is False
