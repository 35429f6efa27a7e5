"""Decides where each task runs and records why."""
