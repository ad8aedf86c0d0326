"""Where market data is kept: the embedded lake, PostgreSQL and the platform's small state."""

from market_data_core import __version__

__all__ = ["__version__"]
