"""Where the router meets files, tables and the clock."""
