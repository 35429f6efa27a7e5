"""HTTP API of Headrace: tasks, chat completions, keys and preferences."""
