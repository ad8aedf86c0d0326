"""Recorded files as a source: `ReplaySource`, and the layouts that say what files look like."""

from __future__ import annotations

from market_data_pipeline.source.replay.files import detect_layout
from market_data_pipeline.source.replay.layout import Format, Layout, load_layout, packaged_layouts, parse_layout
from market_data_pipeline.source.replay.source import Progress, ReplaySource
from market_data_pipeline.source.replay.specs import ContractSpec, EventSpec, PathSpec, SymbolSpec, TimeSpec
from market_data_pipeline.source.replay.times import TimeUnit

__all__ = [
    "ContractSpec",
    "EventSpec",
    "Format",
    "Layout",
    "PathSpec",
    "Progress",
    "ReplaySource",
    "SymbolSpec",
    "TimeSpec",
    "TimeUnit",
    "detect_layout",
    "load_layout",
    "packaged_layouts",
    "parse_layout",
]
