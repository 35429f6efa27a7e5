"""Embedded Kafka, schema registry and Postgres, the supervisor behind headrace up, and the demo."""
