"""Pure decisions: which nodes there are, and which of them runs an attempt."""
