"""The Interactive Brokers provider."""

from market_data_core import __version__

__all__ = ["__version__"]
