"""The command ``mds``: stored data, from a terminal."""
