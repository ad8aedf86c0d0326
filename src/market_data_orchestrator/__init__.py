"""The service: composition of everything below, and its control plane."""

from market_data_core import __version__

__all__ = ["__version__"]
