"""Verifies, versions, indexes and pushes skills."""
