"""An in-memory transactional database under the real projection: the cost accountant's tables and their constraints."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

from headrace_cost_accountant.decide.booking import Implausible, LedgerEntry, entry_of, rivals
from headrace_models.prices import PriceBook
from headrace_streams.applied import Moves
from headrace_streams.errors import PartitionsLost, TransientError
from headrace_streams.log_identity import StoredPosition
from headrace_streams.records import Record, TopicPartition

from headrace_testing.simulation.network import SimulatedNetwork


class SimulatedDatabase:
    """Entries, unique by event id; balances by tenant, provider and model, and beside them what may have been billed;
    consumed offsets. Outlives all processes."""

    def __init__(self) -> None:
        self.entries: list[LedgerEntry] = []
        self.balances: dict[tuple[str, str, str], int] = defaultdict(int)
        self.possibly_billed: dict[tuple[str, str, str], int] = defaultdict(int)
        self.positions: dict[TopicPartition, StoredPosition] = {}
        self.away = False
        self._booked: dict[str, LedgerEntry] = {}
        self._superseded: set[str] = set()

    def transaction(self, entries: Sequence[LedgerEntry], moves: Moves) -> None:
        """The accountant's statements as one transaction. Raises PartitionsLost."""
        self.move(moves)
        self.book(entries)

    def move(self, moves: Moves) -> None:
        if any(self.positions.get(name) != expected for name, (expected, _) in moves.items()):
            raise PartitionsLost("another process has moved the ledger's position (simulated)")
        for name, (_, position) in moves.items():
            self.positions[name] = position

    def booked_to(self, name: TopicPartition) -> int:
        """The position of a partition; 0 if nothing of it is booked."""
        return self.positions[name].next_offset if name in self.positions else 0

    def book(self, entries: Sequence[LedgerEntry]) -> None:
        for entry in entries:
            if not self.is_booked(entry.event_id):
                self._booked[entry.event_id] = entry
                self.entries.append(entry)
                key = (entry.tenant, entry.provider, entry.model)
                self.balances[key] += entry.cost_nanodollars
                self.possibly_billed[key] += entry.possibly_billed_nanodollars
        for entry in entries:
            lost, recorded = rivals(entry)
            if self.is_booked(lost) and self.is_booked(recorded) and lost not in self._superseded:
                self._superseded.add(lost)
                entry = self._booked[lost]
                self.possibly_billed[entry.tenant, entry.provider, entry.model] -= entry.possibly_billed_nanodollars

    def is_booked(self, event_id: str) -> bool:
        """The unique index."""
        return event_id in self._booked


class SimulatedLedger:
    """One accountant's connection to the database; see `headrace_streams.projection.ProjectionStore`.

    Args:
        lost_answer: Whether the response to this commit gets lost.
    """

    def __init__(
        self,
        database: SimulatedDatabase,
        network: SimulatedNetwork,
        prices: PriceBook,
        keep: Callable[[Record, Exception], Awaitable[None]],
        lost_answer: Callable[[], bool],
    ) -> None:
        self._database = database
        self._network = network
        self._prices = prices
        self._keep = keep
        self._lost_answer = lost_answer

    async def positions(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, StoredPosition]:
        def perform() -> Mapping[TopicPartition, StoredPosition]:
            self._reach()
            stored = self._database.positions
            return {name: stored[name] for name in partitions if name in stored}

        return await self._network.database("positions", perform)

    async def apply(self, batch: Sequence[tuple[Record, Any]], moves: Moves) -> None:
        entries: list[LedgerEntry] = []
        for record, event in batch:
            try:
                entries.append(entry_of(event, self._prices, record.timestamp_ms))
            except Implausible as error:
                await self._keep(record, error)
        await self.write(entries, moves)

    async def write(self, entries: Sequence[LedgerEntry], moves: Moves) -> None:
        """One transaction."""
        await self.commit(lambda: self._database.transaction(entries, moves))

    async def commit(self, work: Callable[[], None]) -> None:
        def perform() -> None:
            self._reach()
            work()
            if self._lost_answer():
                raise TransientError("the connection broke during the commit (simulated)")

        await self._network.database("commit", perform)

    @property
    def database(self) -> SimulatedDatabase:
        return self._database

    def _reach(self) -> None:
        if self._database.away:
            raise TransientError("the database is unavailable (simulated)")
