"""What the local worker reaches beside Kafka and its nodes: the API of a Kubernetes cluster."""
