"""Prices entries that were booked at 0 for lack of a price, once the price book has one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from headrace_models.ports import CallUsage
from headrace_models.prices import PriceBook
from headrace_runtime.database import Connection, Database

from headrace_cost_accountant.decide.booking import Basis, charge

_ROWS_AT_ONCE: Final = 1_000
_NOT_KEPT: Final = frozenset({"reasoning_tokens", "image_tokens", "audio_tokens"})
"""Parts of tokens that are priced as a whole; the ledger does not tell them apart."""
_USAGE: Final = tuple(field.name for field in fields(CallUsage) if field.name not in _NOT_KEPT)
_UNPRICED: Final = """
    SELECT provider, model, count(*) AS executions, min(recorded_at) AS first_at, max(recorded_at) AS last_at
    FROM ledger.entries WHERE price_basis = 'unpriced' GROUP BY provider, model ORDER BY provider, model
"""
# Ordered by id and locked until the commit, so that two concurrent runs never price the same entry.
_NEXT: Final = f"""
    SELECT event_id, batch, {", ".join(_USAGE)}
    FROM ledger.entries WHERE price_basis = 'unpriced' AND provider = $1 AND model = $2
    ORDER BY event_id LIMIT {_ROWS_AT_ONCE} FOR UPDATE
"""
_REPRICE: Final = """
    WITH before AS (
        SELECT e.event_id, e.price_version, e.tenant, e.provider, e.model, e.simulated, new.cost,
               (to_timestamp(e.recorded_at / 1000) AT TIME ZONE 'UTC')::date AS day
        FROM ledger.entries AS e
        JOIN unnest($1::text[], $2::bigint[]) AS new (event_id, cost) USING (event_id)
    ), noted AS (
        INSERT INTO ledger.repricings
            (event_id, run_id, price_version_before, price_version, cost_nanodollars, repriced_by, repriced_at)
        SELECT event_id, $3, price_version, $4, cost, $5, $6 FROM before
    ), changed AS (
        UPDATE ledger.entries AS e SET cost_nanodollars = b.cost, price_basis = $7, price_version = $4
        FROM before AS b WHERE e.event_id = b.event_id
    ), sums AS (
        SELECT tenant, day, provider, model, simulated, sum(cost) AS cost, count(*) AS executions
        FROM before GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5
    )
    UPDATE ledger.balances AS b
    SET cost_nanodollars = b.cost_nanodollars + s.cost, unpriced_executions = b.unpriced_executions - s.executions
    FROM sums AS s
    WHERE (b.tenant, b.day, b.provider, b.model, b.simulated) = (s.tenant, s.day, s.provider, s.model, s.simulated)
"""


@dataclass(frozen=True, slots=True)
class Unpriced:
    """Entries of one model that are booked at 0. Times are milliseconds since the epoch; `basis` says whether the price
    book has a price now.
    """

    provider: str
    model: str
    executions: int
    first_at: int
    last_at: int
    basis: Basis


@dataclass(frozen=True, slots=True)
class Repriced:
    """The result of one transaction."""

    provider: str
    model: str
    executions: int
    nanodollars: int


class Repricing:
    """One run.

    Args:
        run_id, repriced_by, now: Recorded with every entry that gets a price.
    """

    def __init__(self, database: Database, book: PriceBook, *, run_id: str, repriced_by: str, now: int) -> None:
        self._database = database
        self._book = book
        self._run_id = run_id
        self._repriced_by = repriced_by
        self._now = now

    async def unpriced(self) -> list[Unpriced]:
        """The entries booked at 0, by model. Raises DatabaseAway."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(_UNPRICED)
        return [
            Unpriced(**row, basis=charge(row["provider"], row["model"], CallUsage(), self._book)[1]) for row in rows
        ]

    async def run(self) -> AsyncIterator[Repriced]:
        """Price every entry the book has a price for, in transactions of at most 1,000; yields each once committed.

        An entry, its balance and the record of the repricing change together, and an entry is priced once: an
        interrupted run can be repeated, and concurrent runs do not interfere. Raises DatabaseAway.
        """
        for group in await self.unpriced():
            while group.basis is not Basis.UNPRICED:
                async with self._database.transaction() as connection:
                    rows = await connection.fetch(_NEXT, group.provider, group.model)
                    costs = await self._reprice(connection, group, rows)
                if not costs:
                    break
                yield Repriced(group.provider, group.model, len(costs), sum(costs))

    async def _reprice(self, connection: Connection, group: Unpriced, rows: Sequence[Any]) -> list[int]:
        costs: list[int] = []
        for row in rows:
            usage = CallUsage(**{name: row[name] for name in _USAGE})
            costs.append(charge(group.provider, group.model, usage, self._book, batch=row["batch"])[0])
        if rows:
            await connection.execute(
                _REPRICE, [row["event_id"] for row in rows], costs, self._run_id, self._book.version,
                self._repriced_by, self._now, group.basis.value,
            )  # fmt: skip
        return costs
