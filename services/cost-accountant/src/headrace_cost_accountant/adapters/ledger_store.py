"""Writes the ledger: entries, balances and consumed offsets in one transaction."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from typing import Any, Final

from headrace_contracts.events import Outcome, UsageRecorded
from headrace_models.prices import PriceBook
from headrace_runtime.database import Connection, Database
from headrace_runtime.logging import get_logger
from headrace_runtime.positions import Positions
from headrace_streams.applied import Moves
from headrace_streams.dead_letters import DeadLetterSink
from headrace_streams.log_identity import StoredPosition
from headrace_streams.records import Record, TopicPartition

from headrace_cost_accountant.decide.booking import Basis, Implausible, LedgerEntry, entry_of, rivals
from headrace_cost_accountant.metrics import LedgerMetrics
from headrace_cost_accountant.migrations import MIGRATIONS

_COLUMNS: Final = tuple(field.name for field in fields(LedgerEntry))
_TYPES: Final = {"str": "text", "str | None": "text", "bool": "boolean", "int": "bigint", "float": "double precision"}
_SUMS: Final = (
    "executions", "input_tokens", "output_tokens", "cached_input_tokens", "cache_write_5m_tokens",
    "cache_write_1h_tokens", "searches", "cost_nanodollars", "internal_value_nanodollars", "unpriced_executions",
    "possibly_billed_executions", "possibly_billed_nanodollars",
)  # fmt: skip


COUNTED: Final = {
    "executions": "count(*) FILTER (WHERE outcome NOT IN ('lost', 'superseded'))",
    "unpriced_executions": "count(*) FILTER (WHERE price_basis = 'unpriced')",
    "possibly_billed_executions": "count(*) FILTER (WHERE outcome = 'lost')",
}
"""Sums over entries that count them. A superseded one was lost, until what it consumed was recorded after all."""


def _book_statement() -> str:
    names = ", ".join(_COLUMNS)
    arrays = ", ".join(
        f"${number}::{_TYPES[str(field.type)]}[]" for number, field in enumerate(fields(LedgerEntry), start=1)
    )
    amounts = ", ".join(COUNTED.get(name, f"sum({name})") for name in _SUMS)
    added = ", ".join(f"{name} = b.{name} + excluded.{name}" for name in _SUMS)
    # The sums cover the inserted rows only, so a repeated event changes no balance. Ordered by key, so that two
    # processes cannot deadlock on each other's rows.
    return f"""
        WITH new AS (
            INSERT INTO ledger.entries ({names}) SELECT * FROM unnest({arrays})
            ON CONFLICT (event_id) DO NOTHING
            RETURNING *
        ), balanced AS (
            INSERT INTO ledger.balances AS b (tenant, day, provider, model, simulated, {", ".join(_SUMS)})
            SELECT tenant, (to_timestamp(recorded_at / 1000) AT TIME ZONE 'UTC')::date AS day, provider, model,
                   simulated, {amounts}
            FROM new GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5
            ON CONFLICT (tenant, day, provider, model, simulated) DO UPDATE SET {added}
        )
        SELECT count(*) FROM new
    """


_BOOK: Final = _book_statement()
# Both events of an execution have the tenant's key, so they come from one partition, one after the other.
_SUPERSEDE: Final = """
    WITH found AS (
        SELECT lost.event_id, lost.possibly_billed_nanodollars AS amount
        FROM unnest($1::text[], $2::text[]) AS pair (lost_id, recorded_id)
        JOIN ledger.entries AS lost ON lost.event_id = pair.lost_id AND lost.outcome = 'lost'
        JOIN ledger.entries AS recorded ON recorded.event_id = pair.recorded_id AND recorded.tenant = lost.tenant
        FOR UPDATE OF lost
    ), superseded AS (
        UPDATE ledger.entries AS lost SET outcome = 'superseded', possibly_billed_nanodollars = 0
        FROM found WHERE lost.event_id = found.event_id
        RETURNING lost.tenant, (to_timestamp(lost.recorded_at / 1000) AT TIME ZONE 'UTC')::date AS day, lost.provider,
                  lost.model, lost.simulated, found.amount
    ), sums AS (
        SELECT tenant, day, provider, model, simulated, count(*) AS executions, sum(amount) AS amount
        FROM superseded GROUP BY 1, 2, 3, 4, 5
    ), balanced AS (
        UPDATE ledger.balances AS b
        SET possibly_billed_executions = b.possibly_billed_executions - sums.executions,
            possibly_billed_nanodollars = b.possibly_billed_nanodollars - sums.amount
        FROM sums
        WHERE (b.tenant, b.day, b.provider, b.model, b.simulated)
            = (sums.tenant, sums.day, sums.provider, sums.model, sums.simulated)
    )
    SELECT count(*) FROM superseded
"""

_log = get_logger("headrace.costs.ledger")


class LedgerStore:
    """The database side of a `Projection`.

    Args:
        dead_letters: Receives records that cannot be booked.
    """

    def __init__(
        self, database: Database, prices: PriceBook, dead_letters: DeadLetterSink, measures: LedgerMetrics
    ) -> None:
        self._database = database
        self._prices = prices
        self._dead_letters = dead_letters
        self._measures = measures
        self._positions = Positions(MIGRATIONS.schema)

    async def positions(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, StoredPosition]:
        """Offsets to resume from, without partitions that were never read. Raises TransientError."""
        async with self._database.connection() as connection:
            return await self._positions.find(connection, partitions)

    async def apply(self, batch: Sequence[tuple[Record, Any]], moves: Moves) -> None:
        """Book a batch and move the offsets, or neither.

        Raises PartitionsLost when another process has moved one of them, TransientError when Postgres is away,
        BatchRefused when it never accepts a row.
        """
        entries: list[LedgerEntry] = []
        implausible: list[tuple[Record, Implausible]] = []
        for record, event in batch:
            assert isinstance(event, UsageRecorded)  # the projection reads no other topic
            try:
                entries.append(entry_of(event, self._prices, record.timestamp_ms))
            except Implausible as error:
                implausible.append((record, error))
        for record, reason in implausible:
            # Before the offsets move: a record dead-lettered twice is better than one lost.
            await self._dead_letters.keep(record, reason)
        async with self._database.transaction() as connection:
            await self._positions.move(connection, moves)
            booked = await _book(connection, entries)
            await _supersede(connection, entries)
        self._tell(entries, booked, len(implausible))

    def _tell(self, entries: Sequence[LedgerEntry], booked: int, implausible: int) -> None:
        self._measures.booked.inc(booked)
        self._measures.repeated.inc(len(entries) - booked)
        self._measures.implausible.inc(implausible)
        self._measures.possibly_billed.inc(sum(entry.outcome == Outcome.LOST.value for entry in entries))
        unpriced = {(entry.provider, entry.model) for entry in entries if entry.price_basis == Basis.UNPRICED}
        for provider, model in sorted(unpriced):
            count = sum(entry.provider == provider and entry.model == model for entry in entries)
            self._measures.unpriced.labels(provider).inc(count)
            _log.warning(
                "usage without a price was booked at 0: add the model to the price book",
                provider=provider,
                model=model,
                executions=count,
            )


async def _book(connection: Connection, entries: Sequence[LedgerEntry]) -> int:
    """The number of new entries."""
    if not entries:
        return 0
    columns = [[getattr(entry, name) for entry in entries] for name in _COLUMNS]
    return int(await connection.fetchval(_BOOK, *columns))


async def _supersede(connection: Connection, entries: Sequence[LedgerEntry]) -> None:
    """Of executions that are lost, and recorded after all, only what is recorded counts, whichever came first."""
    pairs = [rivals(entry) for entry in entries]
    if pairs:
        await connection.fetchval(_SUPERSEDE, [lost for lost, _ in pairs], [recorded for _, recorded in pairs])
