"""An attacker of a running platform: what is tried, what came of it, and what must never come of it."""
