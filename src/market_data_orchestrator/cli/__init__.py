"""The command ``mdo``: everything an operator does, from a terminal."""
