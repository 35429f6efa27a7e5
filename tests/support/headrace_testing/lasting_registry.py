"""A schema registry for commands on the in-memory twin, one after another."""

from __future__ import annotations

from headrace_contracts.memory_registry import MemoryRegistry


class LastingRegistry(MemoryRegistry):
    """Stays open when a command closes it: the next one uses it again."""

    async def close(self) -> None:
        """Does nothing."""
