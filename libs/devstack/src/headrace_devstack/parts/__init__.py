"""One module per kind of part: how it is prepared, launched, and known to be healthy."""
