"""Audits: recounts that do not trust what they check."""
