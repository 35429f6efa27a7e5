"""Ollama's API (docs/api.md of ollama/ollama, version 0.13): the fleet as one big Ollama."""
