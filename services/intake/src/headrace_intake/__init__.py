"""HTTP doors of Headrace: tasks, chat completions, keys and preferences."""
