"""Gaps filled from the history of the providers that left them, within what these may be asked."""

from market_data_orchestrator.backfill.asking import BACKFILL, NOT_FILLABLE, begin_backfill, providers_of
from market_data_orchestrator.backfill.jobs import BackfillJobs

__all__ = ["BACKFILL", "NOT_FILLABLE", "BackfillJobs", "begin_backfill", "providers_of"]
