"""The providers that the settings configure."""
