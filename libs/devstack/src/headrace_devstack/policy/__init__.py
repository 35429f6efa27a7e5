"""`headrace policy`: check, compare, publish and take back routing policies."""
