"""Deterministic simulation: the real services on the log's twin, in virtual time, all drawn from one seed."""
