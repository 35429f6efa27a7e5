"""Upstreams that misbehave, on loopback, and what our clients and the worker make of them."""
