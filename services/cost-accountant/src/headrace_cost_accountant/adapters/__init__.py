"""The accountant's adapters: Postgres, HTTP, Faust."""
