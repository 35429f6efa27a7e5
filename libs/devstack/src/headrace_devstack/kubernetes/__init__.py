"""What Kubernetes needs and the code knows already: topics, users with rights, dashboards, the table of values."""
