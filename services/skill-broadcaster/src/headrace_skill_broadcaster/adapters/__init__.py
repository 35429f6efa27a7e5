"""Where the broadcaster meets the world: HTTP doors, the search index, the feed's connections."""
