"""A service's tables as a part of its life cycle, and the table of the fleet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from headrace_contracts.codec import Codec
from headrace_contracts.events import NodeStatus
from headrace_contracts.topics import FLEET_STATUS
from headrace_streams.ports import Log
from headrace_streams.tables import OnChange, Table
from headrace_streams.watching import OnDiscontinuity

from headrace_runtime.lifecycle import Part
from headrace_runtime.metrics import Metrics

FORGOTTEN_AFTER_MS: Final = 3_600_000
"""How long a report is known after it has expired: a provider whose only worker restarts must not become unknown."""


def fleet_table(
    log: Log,
    codec: Codec,
    clock_ms: Callable[[], int],
    metrics: Metrics,
    on_change: OnChange[NodeStatus] | None = None,
    *,
    on_discontinuity: OnDiscontinuity = lambda partition, verdict: None,
) -> Table[NodeStatus]:
    """The newest report of each node and worker, without those of workers that have been gone for an hour.

    Nobody writes tombstones for these: the topic's retention removes them for whoever reads it next.
    """
    table: Table[NodeStatus] = Table(
        log,
        codec,
        FLEET_STATUS,
        on_change,
        on_discontinuity=on_discontinuity,
        expires_at=lambda status: status.reported_at + status.valid_for_ms + FORGOTTEN_AFTER_MS,
        clock_ms=clock_ms,
    )
    metrics.gauge("fleet_reports", "Reports of nodes and providers in memory, one for each worker.").set_function(
        lambda: len(table.items())
    )
    return table


def tables_part(tables: Mapping[str, Table[Any]], part: str = "tables") -> Part:
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

    return Part(part, start=start, run=watch, stop=stop, waits=waits)
