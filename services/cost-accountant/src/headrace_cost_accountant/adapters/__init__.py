"""Where the accountant meets the world: Postgres, HTTP, Faust."""
