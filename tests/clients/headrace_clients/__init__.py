"""Agent frameworks, as their users install and call them, against a running platform."""
