"""Small state that must survive: the ingest register, jobs, gaps and flags, in one SQLite file."""

from __future__ import annotations

from market_data_store.state.rows import Gap, GapState, Ingest, Job, JobState, Repair
from market_data_store.state.state import State

__all__ = ["Gap", "GapState", "Ingest", "Job", "JobState", "Repair", "State"]
