"""Values of the orchestrator under the names their users know."""
