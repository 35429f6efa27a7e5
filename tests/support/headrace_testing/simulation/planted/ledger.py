"""Bugs of the ledger and of the path of usage into it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from headrace_cost_accountant.decide import booking
from headrace_streams.projection import Projection

from headrace_testing.simulation import ledger
from headrace_testing.simulation.ledger import SimulatedDatabase, SimulatedLedger
from headrace_testing.simulation.planted.bugs import Bug, Patches


def _positions_first(patches: Patches) -> None:
    async def write(self: Any, entries: Any, moves: Any) -> None:
        await self.commit(lambda: self.database.move(moves))
        await self.commit(lambda: self.database.book(entries))

    patches.put(SimulatedLedger, "write", write)


def _no_unique_index(patches: Patches) -> None:
    patches.put(SimulatedDatabase, "is_booked", lambda *_: False)


def _poison_takes_neighbours(patches: Patches) -> None:
    async def event(self: Any, record: Any) -> Any:
        found = await original(self, record)
        poisoned, self.__dict__["poisoned"] = self.__dict__.get("poisoned", False), found is None
        return None if poisoned else found

    original = patches.put(Projection, "_event", event)


def _rounds_down(patches: Patches) -> None:
    def cost(usage: Any, price: Any) -> int:
        exact: int = original(usage, price)
        return max(0, exact - 1)

    original = patches.put(booking, "cost", cost)


def _failed_is_free(patches: Patches) -> None:
    def entry_of(event: Any, book: Any, received_at: int) -> Any:
        entry = original(event, book, received_at)
        return replace(entry, cost_nanodollars=0) if "failed" in entry.outcome else entry

    original = patches.put(ledger, "entry_of", entry_of)


BUGS = (
    Bug("positions_first", "positions are committed before the rows they stand for", _positions_first, hint=1),
    Bug("no_unique_index", "an event that comes twice is booked twice", _no_unique_index, hint=8),
    Bug(
        "poison_takes_neighbours",
        "what follows an undecodable record is lost",
        _poison_takes_neighbours,
        hint=4,
    ),
    Bug("rounds_down", "costs are rounded down", _rounds_down, hint=1),
    Bug("failed_is_free", "failed attempts are booked at nothing", _failed_is_free, hint=9),
)
