"""Consumers: independent readers of the log, each with its own position, operators and tables."""

from market_data_pipeline.consumers.consumer import Consumer
from market_data_pipeline.consumers.history import LogAndStoreHistory
from market_data_pipeline.consumers.host import ConsumerHost, HostStatus
from market_data_pipeline.consumers.ledger import Edge, Ledger, NodeCounts
from market_data_pipeline.consumers.model import ConsumerSettings, ConsumerSpec, ConsumerStatus
from market_data_pipeline.consumers.snapshot import Snapshot, read_snapshot, write_snapshot

__all__ = [
    "Consumer",
    "ConsumerHost",
    "ConsumerSettings",
    "ConsumerSpec",
    "ConsumerStatus",
    "Edge",
    "HostStatus",
    "Ledger",
    "LogAndStoreHistory",
    "NodeCounts",
    "Snapshot",
    "read_snapshot",
    "write_snapshot",
]
