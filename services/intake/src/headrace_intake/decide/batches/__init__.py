"""OpenAI's Batch API: files of requests that become tasks of the batch lane."""
