"""Anthropic's Messages API: from its requests to tasks, and from their ends to its answers, streams and counts."""
