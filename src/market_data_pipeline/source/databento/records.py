"""DBN's bytes as records: what is where, by the layouts that databento-dbn describes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import databento_dbn as dbn
import numpy as np
import numpy.typing as npt
from databento_dbn import RType

Int64s = npt.NDArray[np.int64]
Records = npt.NDArray[Any]
"""A structured array; its fields are those of the record's class in databento-dbn."""

HEADER_BYTES: Final = 16
_WORD_BYTES: Final = 4  # the unit of the length in a record's header
_TS_OUT_BYTES: Final = 8

_CLASSES: Final[tuple[tuple[type[Any], tuple[int, ...]], ...]] = (
    (dbn.TradeMsg, (RType.MBP_0,)),
    (dbn.MBP1Msg, (RType.MBP_1, RType.TBBO)),
    (dbn.MBP10Msg, (RType.MBP_10,)),
    (dbn.MBOMsg, (RType.MBO,)),
    (dbn.CMBP1Msg, (RType.CMBP_1, RType.TCBBO)),
    (dbn.BBOMsg, (RType.BBO_1S, RType.BBO_1M)),
    (dbn.CBBOMsg, (RType.CBBO_1S, RType.CBBO_1M)),
    (dbn.OHLCVMsg, (RType.OHLCV_1S, RType.OHLCV_1M, RType.OHLCV_1H, RType.OHLCV_1D, RType.OHLCV_EOD)),
    (dbn.StatusMsg, (RType.STATUS,)),
    (dbn.ImbalanceMsg, (RType.IMBALANCE,)),
    (dbn.InstrumentDefMsgV1, (RType.INSTRUMENT_DEF,)),
    (dbn.InstrumentDefMsgV2, (RType.INSTRUMENT_DEF,)),
    (dbn.InstrumentDefMsg, (RType.INSTRUMENT_DEF,)),
    (dbn.StatMsgV1, (RType.STATISTICS,)),
    (dbn.StatMsg, (RType.STATISTICS,)),
    (dbn.SymbolMappingMsgV1, (RType.SYMBOL_MAPPING,)),
    (dbn.SymbolMappingMsg, (RType.SYMBOL_MAPPING,)),
    (dbn.ErrorMsgV1, (RType.ERROR,)),
    (dbn.ErrorMsg, (RType.ERROR,)),
    (dbn.SystemMsgV1, (RType.SYSTEM,)),
    (dbn.SystemMsg, (RType.SYSTEM,)),
)


def _layouts() -> dict[tuple[int, int], np.dtype[np.void]]:
    found: dict[tuple[int, int], np.dtype[np.void]] = {}
    for cls, rtypes in _CLASSES:
        fields: list[tuple[str, str]] = cls._dtypes
        plain = np.dtype(fields).newbyteorder("<")
        sent = np.dtype([*fields, ("ts_out", "u8")]).newbyteorder("<")
        for rtype in rtypes:
            found[int(rtype), plain.itemsize] = plain
            found[int(rtype), sent.itemsize] = sent
    return found


# By type and size. Those two tell a record's version too, which a fragment has no other place for; no version of a
# record is as long as another one with a send time behind it.
_LAYOUTS: Final = _layouts()


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Records of one type.

    Attributes:
        rtype: Their type, a number of `RType`.
        at: For each its place among all records of the piece; ascending.
        records: The records.
    """

    rtype: int
    at: Int64s
    records: Records


class Piece:
    """Some bytes of a file, from the start of a record on.

    Attributes:
        count: How many whole records there are before whatever is wrong.
        end: The byte behind the last of these.
        problem: What is wrong behind them; empty if nothing is. A record that the bytes end in is not wrong.
    """

    def __init__(self, data: bytes) -> None:
        self._data = np.frombuffer(data, np.uint8)
        starts, self.end = _starts(data)
        keys = self._data[starts].astype(np.int64) << 8 | self._data[starts + 1]
        self.problem = ""
        unknown = [k for k in np.unique(keys).tolist() if not _is_known(k)]
        if unknown:
            bad = int(np.flatnonzero(np.isin(keys, unknown))[0])
            self.end = int(starts[bad])
            self.problem = f"a record of type {keys[bad] & 0xFF} and {(keys[bad] >> 8) * _WORD_BYTES} bytes"
            starts, keys = starts[:bad], keys[:bad]
        elif self.end < len(data) and data[self.end] * _WORD_BYTES < HEADER_BYTES:
            self.problem = f"a record of {data[self.end] * _WORD_BYTES} bytes"
        self.count = len(starts)
        self._starts = starts
        self._keys = keys

    def segments(self) -> Iterator[tuple[Group | None, list[Group]]]:
        """Give the records in order as (symbol mappings, all records up to the next ones), either maybe empty."""
        mapping = (self._keys & 0xFF) == int(RType.SYMBOL_MAPPING)
        if not mapping.any():
            yield None, self._groups(np.arange(self.count))
            return
        edges = np.flatnonzero(np.diff(mapping)) + 1
        for run in np.split(np.arange(self.count), edges):
            if mapping[run[0]]:
                for group in self._groups(run):
                    yield group, []
            else:
                yield None, self._groups(run)

    def _groups(self, rows: Int64s) -> list[Group]:
        keys = self._keys[rows]
        found = []
        for key in np.unique(keys).tolist():
            rtype, size = key & 0xFF, (key >> 8) * _WORD_BYTES
            at = rows[keys == key]
            starts = self._starts[at]
            if starts[-1] - starts[0] == size * (len(at) - 1):
                block = self._data[starts[0] : starts[-1] + size]
            else:
                block = self._data[starts[:, None] + np.arange(size)].reshape(-1)
            records = block.view(_LAYOUTS[rtype, size])
            found.append(Group(rtype=rtype, at=at, records=records))
        return found


def _is_known(key: int) -> bool:
    return (key & 0xFF, (key >> 8) * _WORD_BYTES) in _LAYOUTS


# Where records begin, and where the last whole one ends. Mostly all are as long as the first; else each must be asked.
def _starts(data: bytes) -> tuple[Int64s, int]:
    size = data[0] * _WORD_BYTES if data else 0
    if size < HEADER_BYTES or size > len(data):
        return np.empty(0, np.int64), 0
    lengths = np.frombuffer(data, np.uint8)[: len(data) // size * size : size]
    other = np.flatnonzero(lengths != data[0])
    alike = int(other[0]) if len(other) else len(lengths)
    more: list[int] = []
    at = alike * size
    while at < len(data):
        size_here = data[at] * _WORD_BYTES
        if size_here < HEADER_BYTES or at + size_here > len(data):
            break
        more.append(at)
        at += size_here
    return np.concatenate((np.arange(alike) * size, np.array(more, np.int64))), at
