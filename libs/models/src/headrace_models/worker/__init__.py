"""Shared by the workers: consume attempts; publish their outcomes, usage, pieces of text and fleet status."""
