"""Pure decisions: which nodes exist, and which of them runs an attempt."""
