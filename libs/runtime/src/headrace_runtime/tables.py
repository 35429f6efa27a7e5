"""A service's tables as a part of its life cycle."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from headrace_streams.tables import Table

from headrace_runtime.lifecycle import Part


def tables_part(tables: Mapping[str, Table[Any]]) -> Part:
    """Reads all tables at the same time, before later parts start, and stops the service if one can no longer follow.

    Which of them are not there yet, and why, is what the part waits for.
    """
    missing = dict.fromkeys(tables)

    async def start_one(name: str) -> None:
        await tables[name].start()
        del missing[name]

    async def start() -> None:
        starting = [asyncio.create_task(start_one(name), name=f"start of table {name}") for name in tables]
        try:
            done, _ = await asyncio.wait(starting, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            for task in starting:
                task.cancel()
            await asyncio.gather(*starting, return_exceptions=True)
        for task in done:
            task.result()

    async def watch() -> None:
        # Not `gather`: when the life cycle cancels this part, it would cancel the tables' own futures.
        done, _ = await asyncio.wait([table.failure for table in tables.values()], return_when=asyncio.FIRST_COMPLETED)
        for failed in done:
            failed.result()

    async def stop() -> None:
        await asyncio.gather(*[table.close() for table in tables.values()])

    def waits() -> str | None:
        return ", ".join(f"{name} ({why})" if (why := tables[name].waiting) else name for name in missing) or None

    return Part("tables", start=start, run=watch, stop=stop, waits=waits)
