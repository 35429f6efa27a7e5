"""Chaos on the real platform: a seeded killer, a load, and a checker that shares no code with the services."""
