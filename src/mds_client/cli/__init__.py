"""The command ``mds``: stored data, from a terminal."""

from mds_client.cli.main import main

__all__ = ["main"]
