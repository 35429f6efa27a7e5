"""Attempts that nobody waits for, in batches of their provider."""
