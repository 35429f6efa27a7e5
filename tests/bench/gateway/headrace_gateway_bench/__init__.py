"""Headrace and LiteLLM's proxy behind the same upstream (`make bench-gateway`)."""
