"""The exchanges whose captures can be read. Another one is a module of its own and a line here."""

from __future__ import annotations

from typing import Final

from market_data_pipeline.source.captures.binance import Spot, UsdM
from market_data_pipeline.source.captures.messages import Exchange
from market_data_pipeline.source.captures.okx import Okx

EXCHANGES: Final[dict[str, type[Exchange]]] = {cls.vendor: cls for cls in (Spot, UsdM, Okx)}
"""By the vendor that their events carry."""
