"""A table as a part of a service's life cycle."""

from __future__ import annotations

import asyncio

from headrace_contracts.codec import E
from headrace_streams.tables import Table

from headrace_runtime.lifecycle import Part


def table_part(name: str, table: Table[E]) -> Part:
    """Reads the whole table before later parts start, and stops the service if the table can no longer follow."""

    async def watch() -> None:
        # Shielded: the life cycle cancels this part when stopping, which must not cancel the table's own future.
        await asyncio.shield(table.failure)

    return Part(name, start=table.start, run=watch, stop=table.close, waits=lambda: table.waiting)
