"""Pure decisions: what must not run here, which providers there are, and by which names their models are known."""
