"""Deterministic simulation: the real services on the log's twin, under virtual time, everything drawn from one seed."""
