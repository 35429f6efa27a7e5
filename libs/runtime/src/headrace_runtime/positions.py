"""A projection's read positions: rows updated in the transaction that stores what was read."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from headrace_streams.errors import PartitionsLost
from headrace_streams.records import TopicPartition

from headrace_runtime.database import Connection


class Positions:
    """The table `<schema>.positions` (topic, partition, next_offset), keyed by the first two.

    Raises whatever asyncpg raises.
    """

    def __init__(self, schema: str) -> None:
        self._schema = schema
        self._find = f"SELECT topic, partition, next_offset FROM {schema}.positions WHERE topic = ANY($1::text[])"
        self._begin = f"""
            INSERT INTO {schema}.positions (topic, partition, next_offset)
            SELECT * FROM unnest($1::text[], $2::integer[], $3::bigint[])
            ON CONFLICT (topic, partition) DO NOTHING
            RETURNING 1
        """
        self._move = f"""
            UPDATE {schema}.positions AS p SET next_offset = new.next_offset
            FROM unnest($1::text[], $2::integer[], $3::bigint[], $4::bigint[])
                AS new (topic, partition, next_offset, expected)
            WHERE p.topic = new.topic AND p.partition = new.partition AND p.next_offset = new.expected
            RETURNING 1
        """

    async def find(
        self, connection: Connection, partitions: Collection[TopicPartition]
    ) -> Mapping[TopicPartition, int]:
        """Where to continue; partitions that were never read are missing."""
        rows = await connection.fetch(self._find, sorted({each.topic for each in partitions}))
        found = {TopicPartition(row["topic"], row["partition"]): int(row["next_offset"]) for row in rows}
        return {each: found[each] for each in partitions if each in found}

    async def move(self, connection: Connection, moves: Mapping[TopicPartition, tuple[int | None, int]]) -> None:
        """Move each partition from its expected position (None: none yet) to its new one.

        Call it within a transaction. Raises PartitionsLost if one of them is elsewhere: another process has moved
        it, or an earlier try of the same transaction was committed although its response was lost.
        """
        ordered = sorted(moves.items())
        new = [(each, following) for each, (expected, following) in ordered if expected is None]
        known = [(each, expected, following) for each, (expected, following) in ordered if expected is not None]
        moved = 0
        if new:
            topics, numbers = [each.topic for each, _ in new], [each.partition for each, _ in new]
            moved += len(await connection.fetch(self._begin, topics, numbers, [following for _, following in new]))
        if known:
            moved += len(
                await connection.fetch(
                    self._move,
                    [each.topic for each, _, _ in known],
                    [each.partition for each, _, _ in known],
                    [following for _, _, following in known],
                    [expected for _, expected, _ in known],
                )
            )
        if moved != len(moves):
            raise PartitionsLost(
                f"a position in {self._schema}.positions has been moved meanwhile: continue from the stored one"
            )
