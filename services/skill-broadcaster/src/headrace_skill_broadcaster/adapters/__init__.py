"""Where the broadcaster meets the world: HTTP API, the search index, the feed's connections."""
