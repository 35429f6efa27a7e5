"""The router's adapters for files and tables."""
