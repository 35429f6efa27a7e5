"""What tests of all kinds share. Fixtures are in ``tests/conftest.py``; this package holds what they are made of."""
