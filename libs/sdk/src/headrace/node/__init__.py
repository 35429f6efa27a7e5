"""The agent of a node (`headrace node`): what stands beside an Ollama, announces it, and guards it with a proxy."""
