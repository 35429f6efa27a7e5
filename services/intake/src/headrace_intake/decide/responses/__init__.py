"""OpenAI's Responses API: requests as tasks, and answers as responses. Pure."""
