"""Stands before the real one: services run as `make run` installs them, without what only research needs."""

raise ModuleNotFoundError("No module named 'pandas'", name="pandas")
