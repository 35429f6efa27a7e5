"""The providers as the settings name them."""
