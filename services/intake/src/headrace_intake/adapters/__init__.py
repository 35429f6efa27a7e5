"""Intake's edges: HTTP, Kafka replies, Postgres."""
