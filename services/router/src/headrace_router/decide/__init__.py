"""Pure decisions: time, state and context come in as arguments, frozen values go out."""
