"""Shared code of all kinds of tests. Fixtures are in ``tests/conftest.py``; this package has their building blocks."""
