"""The Interactive Brokers provider."""

from market_data_core import __version__
from market_data_ibkr.provider import IBKRProvider, LineStatus

__all__ = ["IBKRProvider", "LineStatus", "__version__"]
