"""A Kubernetes control plane without containers: programs built from source, run on loopback, removed afterwards."""
