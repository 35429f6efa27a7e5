"""Kubernetes manifests derived from the code: topics, users with their ACLs, dashboards, the table of values."""
