"""Settings, logging, metrics, tracing, health and life cycle shared by all Headrace services."""
