"""Small state that must survive: the ingest register, jobs, gaps, flags and audit heads, in one SQLite file."""

from __future__ import annotations

from market_data_store.state.rows import AuditHead, Gap, GapState, Ingest, Job, JobState, Repair
from market_data_store.state.state import State

__all__ = ["AuditHead", "Gap", "GapState", "Ingest", "Job", "JobState", "Repair", "State"]
