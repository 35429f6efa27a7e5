"""Runs attempts at cloud providers."""
