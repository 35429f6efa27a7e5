"""Pure decisions: what must not run here, which providers exist, and under which names their models are known."""
