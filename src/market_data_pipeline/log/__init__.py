"""The log: everything a provider hands us, numbered and durable, before any consumer sees it."""

from market_data_pipeline.log.folder import read_durable
from market_data_pipeline.log.frames import Record, RecordType
from market_data_pipeline.log.interface import EventLog, EventReader
from market_data_pipeline.log.reader import LogReader
from market_data_pipeline.log.settings import LogSettings, WriterStatus
from market_data_pipeline.log.writer import LogWriter

__all__ = [
    "EventLog",
    "EventReader",
    "LogReader",
    "LogSettings",
    "LogWriter",
    "Record",
    "RecordType",
    "WriterStatus",
    "read_durable",
]
