"""The local worker's adapter for the API of a Kubernetes cluster."""
