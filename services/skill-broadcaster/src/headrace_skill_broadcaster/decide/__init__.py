"""Decisions about skills: pure functions of state, event and time."""
