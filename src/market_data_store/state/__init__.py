"""Small state that must survive: ingest register, jobs, gaps, flags, audit heads, login sessions; one SQLite file."""

from __future__ import annotations

from market_data_store.state.rows import AuditHead, Gap, GapState, Ingest, Job, JobState, LoginSession, Repair
from market_data_store.state.state import State

__all__ = ["AuditHead", "Gap", "GapState", "Ingest", "Job", "JobState", "LoginSession", "Repair", "State"]
