"""The broadcaster's adapters: HTTP API, search index, and the feed's connections."""
