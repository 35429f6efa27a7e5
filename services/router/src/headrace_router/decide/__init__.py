"""Pure decisions: time, state and all that is known come in as arguments; frozen values go out."""
