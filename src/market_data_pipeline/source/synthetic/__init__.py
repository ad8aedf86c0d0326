"""Made-up market data that can be repeated exactly, as fast or as slow as one likes."""

from market_data_pipeline.source.synthetic.source import SyntheticSource

__all__ = ["SyntheticSource"]
