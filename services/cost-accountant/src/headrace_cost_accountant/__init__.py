"""Ledger of every token, and live spend windows."""
