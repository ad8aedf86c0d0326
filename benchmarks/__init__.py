"""Measurements of the platform against its targets: ``python -m benchmarks``.

Every row runs its yardsticks in the same process or machine state, round by round in turn, and its verdict is the ratio
to them; absolute figures stand beside the machine they were taken on.
"""
