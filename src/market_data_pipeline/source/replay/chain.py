"""Rows of option chains."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from market_data_pipeline.source.replay.blocks import Block
from market_data_pipeline.source.replay.contracts import contract_symbols
from market_data_pipeline.source.replay.specs import CONTRACT_PARTS, ContractSpec
from market_data_pipeline.source.replay.times import Bools


class Chain:
    """Rows of a chain: each gets its contract's symbol, and the price of the underlying from the row above them.

    Args:
        spec: How contracts are told.
        underlying: Of all rows.
    """

    def __init__(self, spec: ContractSpec, underlying: str) -> None:
        self._spec = spec
        self._underlying = underlying
        self._price: float | None = None

    def apply(self, block: Block) -> Block:
        """Return the rows of contracts, the underlying's own left out; call it with the blocks of a part in order."""
        table, places = block.table.combine_chunks(), block.places
        prices = pa.nulls(table.num_rows, pa.float64())
        if self._spec.underlying_row:
            own = np.logical_and.reduce([table.column(n).is_null().to_numpy() for n in CONTRACT_PARTS])
            prices = self._prices(table.column("last_price"), own)
            table, places = table.filter(pa.array(~own)).combine_chunks(), places[~own]
        strike = pc.divide(table.column("strike"), 10.0**self._spec.strike_scale)
        symbols = contract_symbols(self._underlying, table.column("expiry"), strike, table.column("right"))
        table = table.set_column(table.schema.get_field_index("strike"), "strike", strike)
        table = table.append_column("symbol", symbols)
        table = table.append_column("underlying", pa.repeat(pa.scalar(self._underlying), table.num_rows))
        return replace(block, table=table.append_column("underlying_price", prices), places=places)

    # For each row of a contract, the price in the last of the underlying's rows above it.
    def _prices(self, last_price: pa.ChunkedArray, own: Bools) -> pa.Array:
        said = [self._price, *(price or None for price in last_price.filter(pa.array(own)).to_pylist())]
        self._price = said[-1]
        return pa.array(said, pa.float64()).take(pa.array(np.cumsum(own)[~own]))
