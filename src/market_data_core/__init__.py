"""Contracts of the market data platform."""
