"""What the DBN tests share: records to build files of, and what rows each should give, record by record."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from itertools import pairwise
from types import SimpleNamespace

import databento_dbn as dbn
import zstandard

from market_data_core.protocols import Mark
from market_data_core.schemas import Flag, Kind

SECOND = 1_000_000_000
BASE = 1_719_878_400 * SECOND  # 2024-07-02T00:00Z
UNDEF_PRICE, UNDEF_TIME = dbn.UNDEF_PRICE, dbn.UNDEF_TIMESTAMP
MAPPINGS = {"ABC": [("2024-07-01", "2024-07-03", 1)], "XYZ": [("2024-07-01", "2024-07-03", 2)]}


def mappings_of(table):
    """Mappings as `Metadata` takes them; called like `mappings_of({"ABC": [("2024-07-01", "2024-07-03", 1)]})`."""
    return [
        SimpleNamespace(
            raw_symbol=symbol,
            intervals=[
                SimpleNamespace(start_date=date.fromisoformat(a), end_date=date.fromisoformat(b), symbol=str(number))
                for a, b, number in spans
            ],
        )
        for symbol, spans in table.items()
    ]


def encoded(records, *, schema=None, mappings=MAPPINGS, metadata=True, **settings):
    """The bytes of a DBN file."""
    head = dbn.Metadata(
        dataset="GLBX.MDP3",
        start=BASE,
        stype_in=settings.pop("stype_in", dbn.SType.RAW_SYMBOL),
        stype_out=settings.pop("stype_out", dbn.SType.INSTRUMENT_ID),
        schema=schema,
        symbols=list(mappings),
        mappings=mappings_of(mappings),
        version=3,
        **settings,
    )
    return (bytes(head) if metadata else b"") + b"".join(map(bytes, records))


def packed(data, *cuts):
    """The same as zstd, a frame from each cut to the next, with checksums as Databento's files have them."""
    edges = [0, *cuts, len(data)]
    compressor = zstandard.ZstdCompressor(write_checksum=True)
    return b"".join(compressor.compress(data[a:b]) for a, b in pairwise(edges))


def fixed(price):
    """A price as DBN has it; None where there is none."""
    return UNDEF_PRICE if price is None else round(price * 1e9)


def trade(ts=0, price=100.0, size=1, *, number=1, side=dbn.Side.BID, **more):
    """A trade; `ts` in nanoseconds from BASE, received 1 microsecond later."""
    return dbn.TradeMsg(
        **{
            "publisher_id": 1,
            "instrument_id": number,
            "ts_event": BASE + ts,
            "price": fixed(price),
            "size": size,
            "action": dbn.Action.TRADE,
            "side": side,
            "depth": 0,
            "ts_recv": BASE + ts + 1000,
            "flags": 128,
            **more,
        }
    )


def pairs(bid, ask, count=1):
    """Book levels, one tick apart, or an empty side where a price is None."""
    return [
        dbn.BidAskPair(
            bid_px=fixed(None if bid is None else bid - i),
            ask_px=fixed(None if ask is None else ask + i),
            bid_sz=0 if bid is None else 10 + i,
            ask_sz=0 if ask is None else 20 + i,
        )
        for i in range(count)
    ]


def top(ts=0, bid=99.0, ask=101.0, *, action=dbn.Action.ADD, number=1, price=100.0, **more):
    """A change of the top of book, or a trade at it."""
    return dbn.MBP1Msg(
        **{
            "publisher_id": 1,
            "instrument_id": number,
            "ts_event": BASE + ts,
            "price": fixed(price),
            "size": 3,
            "action": action,
            "side": dbn.Side.ASK,
            "depth": 0,
            "ts_recv": BASE + ts + 1000,
            "flags": 128,
            "levels": pairs(bid, ask)[0],
            **more,
        }
    )


@dataclass
class Given:
    """Everything a source gave, in order."""

    batches: list = field(default_factory=list)
    marks: list = field(default_factory=list)

    def rows(self, kind=None):
        """All rows as plain values without their nulls, instruments spelled out."""
        found = []
        for batch in self.batches:
            if kind in (None, batch.kind):
                for row in batch.data.to_pylist():
                    row["symbol"] = batch.instruments[row.pop("instrument")].symbol
                    found.append((batch.kind, {k: v for k, v in row.items() if v is not None}))
        return found

    def values(self, kind, *names):
        """Some columns of all rows of a kind."""
        return [tuple(row.get(n) for n in names) for _, row in self.rows(kind)]


async def take(source, resume=None, into=None):
    """Run a source to its end; what it gives is also in `into`, should it not come to its end."""
    given = Given() if into is None else into
    async for item in source.batches(resume or {}):
        (given.marks if isinstance(item, Mark) else given.batches).append(item)
    return given


def decoded(data, *, fragment_version=None):
    """Metadata (None for a fragment) and records as databento-dbn itself decodes them."""
    if data[:4] == b"\x28\xb5\x2f\xfd":
        data = zstandard.ZstdDecompressor().decompressobj(read_across_frames=True).decompress(data)
    if fragment_version is not None:
        decoder = dbn.DBNDecoder(has_metadata=False, input_version=fragment_version)
        return None, decoder.write_and_decode(data)
    metadata, *records = dbn.DBNDecoder().write_and_decode(data)
    return metadata, records


def symbol_of(metadata, record):
    """The symbol of a record by its file's mappings."""
    day = datetime.fromtimestamp(record.ts_index // SECOND, UTC).date()
    for symbol, spans in metadata.mappings.items() if metadata else ():
        for span in spans:
            if span["symbol"] == str(record.instrument_id) and span["start_date"] <= day < span["end_date"]:
                return symbol.upper()
    return (getattr(record, "raw_symbol", "") or str(record.instrument_id)).upper()


def _price(value):
    return None if value == UNDEF_PRICE else value / 1e9


def _top(record):
    level = record.levels[0]
    columns = {}
    for side in ("bid", "ask"):
        price = _price(getattr(level, f"{side}_px"))
        size = None if price is None else float(getattr(level, f"{side}_sz"))
        columns |= {f"{side}_price": price, f"{side}_size": size}
    return columns


def _trade(record):
    side = {"B": "buy", "A": "sell"}.get(str(record.side))
    return {
        "price": _price(record.price),
        "size": float(record.size),
        "exchange": str(int(record.publisher_id)),
        "aggressor_side": side,
    }


def _levels(record):
    rows = [{"action": "clear", "sequence": record.sequence}]
    for side in ("bid", "ask"):
        for place, level in enumerate(record.levels):
            price = _price(getattr(level, f"{side}_px"))
            if price is not None:
                size = float(getattr(level, f"{side}_sz"))
                rows.append({"action": "set", "side": side, "level": place, "price": price, "size": size})
                rows[-1]["sequence"] = record.sequence
    kept = int(record.flags) & ~int(Flag.LAST) | int(Flag.SNAPSHOT)
    for row in rows:
        row["flags"] = kept
    rows[-1]["flags"] = int(record.flags) | int(Flag.SNAPSHOT)
    return rows


ACTIONS = {"A": "add", "C": "cancel", "M": "modify", "R": "clear", "T": "trade", "F": "fill", "N": "none"}


def _order(record):
    return {
        "action": ACTIONS[str(record.action)],
        "side": {"B": "bid", "A": "ask"}.get(str(record.side)),
        "price": _price(record.price),
        "size": float(record.size),
        "order_id": str(record.order_id),
        "sequence": record.sequence,
    }


def _bar(record):
    interval = {32: "1s", 33: "1m", 34: "1h", 35: "1d", 36: "1d"}[int(record.rtype)]
    session = "EOD" if int(record.rtype) == 36 else "ALL"
    prices = {name: _price(getattr(record, name)) for name in ("open", "high", "low", "close")}
    fixed = {"what": "TRADES", "source": "external", "revision": 0}
    return prices | fixed | {"interval": interval, "session": session, "volume": float(record.volume)}


def _definition(record):
    expires = record.expiration not in (UNDEF_TIME, 0)
    starts = record.activation not in (UNDEF_TIME, 0)
    lot = record.min_lot_size
    return {
        "valid_from": record.activation if starts else None,
        "valid_to": record.expiration if expires else None,
        "tick_size": _price(record.min_price_increment),
        "size_step": float(lot) if lot is not None and 0 < lot < 2**31 - 1 else None,
        "multiplier": _price(record.unit_of_measure_qty),
        "currency": record.currency or None,
        "expiry": f"{datetime.fromtimestamp(record.expiration // SECOND, UTC):%Y%m%d}" if expires else None,
    }


def _status(record):
    said = [v.name.lower() for v in (record.reason, record.trading_event) if v is not None and int(v)]
    return {"status": record.action.name.lower(), "reason": ", ".join(said) or None}


def _imbalance(record):
    prices = "ref_price cont_book_clr_price auct_interest_clr_price ssr_filling_price ind_match_price upper_collar"
    sizes = "paired_qty total_imbalance_qty market_imbalance_qty unpaired_qty"
    rows = [(n, _price(getattr(record, n))) for n in f"{prices} lower_collar".split()]
    rows += [(n, float(v) if (v := getattr(record, n)) != dbn.UNDEF_ORDER_SIZE else None) for n in sizes.split()]
    rows.append(("side", {"B": 1.0, "A": -1.0}.get(str(record.side), 0.0)))
    return [{"name": f"imbalance_{n}", "value": v} for n, v in rows if v is not None]


def expected(metadata, record):
    """The rows of one record, as (kind, columns that are not null)."""
    name = type(record).__name__
    made = {
        "TradeMsg": lambda r: [(Kind.TRADES, _trade(r))],
        "MBP10Msg": lambda r: [(Kind.DEPTH, row) for row in _levels(r)],
        "MBOMsg": lambda r: [(Kind.DEPTH, _order(r))],
        "OHLCVMsg": lambda r: [(Kind.BARS, _bar(r))],
        "InstrumentDefMsg": lambda r: [(Kind.DEFINITIONS, _definition(r))],
        "StatusMsg": lambda r: [(Kind.STATUS, _status(r))],
        "ImbalanceMsg": lambda r: [(Kind.ANALYTICS, row) for row in _imbalance(r)],
        "StatMsg": lambda r: [(Kind.ANALYTICS, {"name": r.stat_type.name.lower(), "value": _price(r.price)})],
    }
    rows = made.get(name, lambda r: [(Kind.QUOTES, _top(r))])(record)
    if name in {"MBP1Msg", "CMBP1Msg", "MBP10Msg"} and str(record.action) == "T":
        rows.append((Kind.TRADES, _trade(record)))
    flags, ts_event = int(getattr(record, "flags", 0)), record.ts_event
    if name in {"BBOMsg", "CBBOMsg"} or ts_event == UNDEF_TIME:
        flags, ts_event = flags | int(Flag.TS_EVENT_SYNTHETIC), record.ts_recv
    common = {"symbol": symbol_of(metadata, record), "ts_event": ts_event, "ts_recv": 0, "flags": flags}
    return [(kind, {k: v for k, v in (common | row).items() if v is not None}) for kind, row in rows]


def by_kind(rows):
    """Rows of each kind in order."""
    found = {}
    for kind, row in rows:
        found.setdefault(kind, []).append(row)
    return found
