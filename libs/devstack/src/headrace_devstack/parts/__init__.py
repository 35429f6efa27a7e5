"""One module per kind of part: how it is prepared, launched and checked."""
