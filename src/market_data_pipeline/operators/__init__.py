"""Operators: steps of a pipeline over batches, functions of the log alone."""

from market_data_pipeline.operators.bars import Bars, TickHistory
from market_data_pipeline.operators.dedupe import Dedupe
from market_data_pipeline.operators.validate import Validate

__all__ = ["Bars", "Dedupe", "TickHistory", "Validate"]
