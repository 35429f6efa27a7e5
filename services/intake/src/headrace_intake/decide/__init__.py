"""Intake's decisions as pure functions of ids, time and state that return frozen values."""
