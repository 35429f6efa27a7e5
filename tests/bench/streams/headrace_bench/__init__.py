"""Headrace's stream library measured beside its peers: the same records, the same broker, alternating rounds."""
