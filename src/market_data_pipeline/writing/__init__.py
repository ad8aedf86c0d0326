"""Writing under fire: what a table refuses is set aside, what a store cannot take now is tried again."""

from market_data_pipeline.writing.coordinator import CoordinatorStats, WriteCoordinator, Written
from market_data_pipeline.writing.dead_letters import DeadLetter, DeadLetters
from market_data_pipeline.writing.policy import Backoff, BatchPolicy
from market_data_pipeline.writing.replay import Replayed, replay
from market_data_pipeline.writing.table_writer import Run, TableWriter
from market_data_pipeline.writing.watermarks import Watermarks

__all__ = [
    "Backoff",
    "BatchPolicy",
    "CoordinatorStats",
    "DeadLetter",
    "DeadLetters",
    "Replayed",
    "Run",
    "TableWriter",
    "Watermarks",
    "WriteCoordinator",
    "Written",
    "replay",
]
