"""A table as a part of a service."""

from __future__ import annotations

import asyncio

from headrace_contracts.codec import E
from headrace_streams.tables import Table

from headrace_runtime.lifecycle import Part


def table_part(name: str, table: Table[E]) -> Part:
    """Reads the table whole before the parts behind it start, and ends the service when the table stops following."""

    async def watch() -> None:
        # Shielded: the life cycle cancels this part when it stops, and must not cancel the table's own future.
        await asyncio.shield(table.failure)

    return Part(name, start=table.start, run=watch, stop=table.close)
