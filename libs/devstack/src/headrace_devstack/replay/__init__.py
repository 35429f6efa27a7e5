"""What recorded tasks would have come to under another policy: `headrace replay`."""
