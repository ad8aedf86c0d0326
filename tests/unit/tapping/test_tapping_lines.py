"""Events as lines: readable, harmless and exact."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from market_data_core.batch import EventBatch, Instrument, Instruments
from market_data_core.schemas import EVENT_SCHEMAS, Kind, Origin
from market_data_orchestrator.cli.lines import Lines, json_lines, moment

AT_NS = 1_700_000_000_123_456_789


def batch(kind: Kind, /, rows: int = 1, *, symbol: str = "AA", decimals: int = 2, **columns) -> EventBatch:
    """Rows with the given columns; what is not given is null."""
    given = {
        "instrument": [0] * rows,
        "ts_event": [AT_NS] * rows,
        "ts_recv": [AT_NS] * rows,
        "seq": list(range(rows)),
        "flags": [0] * rows,
        **columns,
    }
    schema = EVENT_SCHEMAS[kind]
    arrays = [pa.array(given.get(f.name, [None] * rows), f.type, from_pandas=False) for f in schema]
    table = Instruments([Instrument(vendor="v", symbol=symbol, price_decimals=decimals, size_decimals=0)])
    return EventBatch(
        kind=kind, data=pa.RecordBatch.from_arrays(arrays, schema=schema), instruments=table, origin=Origin.LIVE
    )


def test_a_line_says_when_who_what_and_how_much():
    """Time of the event in UTC, vendor, symbol, kind, and the values with their digits."""
    (line,) = Lines().of("", batch(Kind.TRADES, price=[100.5], size=[300.0], trade_id=["t1"], exchange=["V"]))
    assert " ".join(line.split()) == "2023-11-14 22:13:20.123456Z v AA trades 100.50 x 300 - V id t1"


def test_lines_stay_aligned_as_values_grow():
    """A column is as wide as the widest it has held: prices of one width stand below each other."""
    lines = Lines()
    first = [*lines.of("", batch(Kind.QUOTES, 2, bid_price=[1.25, 1000.5], ask_price=[2.25, 1001.0]))]
    later = [*lines.of("", batch(Kind.QUOTES, 1, bid_price=[7.0], ask_price=[None]))]
    assert len({line.index("ask") for line in [first[1], *later]}) == 1
    assert "bid    7.00" in later[0]


def test_an_output_is_named_beside_the_kind():
    """Rows of a named output say which."""
    (line,) = Lines().of("big", batch(Kind.TRADES, price=[1.0]))
    assert "trades.big" in line


@pytest.mark.parametrize(("value", "shown"), [(1.005, "1.005"), (1.5, "1.50"), (43210.12345678, "43210.12345678")])
def test_no_digit_of_a_price_is_lost(value, shown):
    """The instrument's digits are the least that is shown."""
    (line,) = Lines().of("", batch(Kind.TRADES, price=[value]))
    assert line.split()[5] == shown


def test_what_others_sent_cannot_act_on_the_terminal():
    """Control characters are replaced, in symbols and in texts, and very long texts are cut."""
    lines = [
        *Lines().of("", batch(Kind.TRADES, symbol="A\x1b[2JB", trade_id=["x\r\nfake"])),
        *Lines().of("", batch(Kind.QUARANTINE, kind=["trades"], reason=["bad"], raw=["\x1b]0;t\x07" + "y" * 5000])),
    ]
    assert all(line.isprintable() for line in lines)
    assert len(lines[1]) < 400


def test_every_kind_has_a_line():
    """Whatever leaves a node can be shown, all values absent too."""
    for kind in Kind:
        (line,) = Lines().of("", batch(kind))
        assert str(kind) in line


def test_json_is_exact_and_complete():
    """Times keep their nanoseconds, absent is null, NaN is null, and all columns are there."""
    (line,) = json_lines("big", batch(Kind.TRADES, price=[0.1 + 0.2], size=[np.nan]))
    value = json.loads(line, parse_constant=pytest.fail)
    assert value["event"] == "trades"
    assert value["port"] == "big"
    assert value["ts_event"] == AT_NS
    assert value["price"] == 0.1 + 0.2
    assert value["size"] is None
    assert value["symbol"] == "AA"
    (line,) = json_lines("", batch(Kind.QUARANTINE, kind=["trades"]))
    assert json.loads(line)["event"] == "quarantine"
    assert json.loads(line)["kind"] == "trades"


def test_times_that_no_calendar_has_are_shown_as_they_are():
    """Nothing a source gives as a time ends the tap."""
    assert moment(0) == "1970-01-01 00:00:00.000000Z"
    for time in (2**63 - 1, -(2**63)):
        assert moment(time).endswith(("Z", " ns"))
