"""Runs attempts on Ollama nodes."""
