"""Pipelines: sources, the log, operators and the consumers that run them."""

from market_data_core import __version__

__all__ = ["__version__"]
