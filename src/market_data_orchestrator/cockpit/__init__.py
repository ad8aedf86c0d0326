"""The cockpit: one page at ``/ui`` that shows what the service does, served from package data."""

from market_data_orchestrator.cockpit.routes import COCKPIT_CSP, cockpit_routes

__all__ = ["COCKPIT_CSP", "cockpit_routes"]
