"""Decisions about costs: pure functions of usage, prices and time."""
