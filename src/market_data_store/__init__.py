"""Where market data is kept: the embedded lake, PostgreSQL and the platform's small state."""

from market_data_core import __version__
from market_data_store.opening import open_backend

__all__ = ["__version__", "open_backend"]
