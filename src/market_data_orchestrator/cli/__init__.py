"""The command ``mdo``: everything an operator does, from a terminal."""

from market_data_orchestrator.cli.main import main

__all__ = ["main"]
