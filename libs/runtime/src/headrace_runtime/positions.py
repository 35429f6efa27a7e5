"""A projection's read positions: rows updated in the transaction that stores what was read."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from headrace_streams.applied import Moves
from headrace_streams.errors import PartitionsLost
from headrace_streams.log_identity import StoredPosition
from headrace_streams.records import TopicPartition

from headrace_runtime.database import Connection


class Positions:
    """The table `<schema>.positions` (topic, partition, next_offset, topic_id), keyed by the first two.

    Raises whatever asyncpg raises.
    """

    def __init__(self, schema: str) -> None:
        self._schema = schema
        self._find = f"""
            SELECT topic, partition, next_offset, topic_id FROM {schema}.positions WHERE topic = ANY($1::text[])
        """
        self._begin = f"""
            INSERT INTO {schema}.positions (topic, partition, next_offset, topic_id)
            SELECT * FROM unnest($1::text[], $2::integer[], $3::bigint[], $4::text[])
            ON CONFLICT (topic, partition) DO NOTHING
            RETURNING 1
        """
        # Also the topic's id must be the expected one: another log may have the same offset.
        self._move = f"""
            UPDATE {schema}.positions AS p SET next_offset = new.next_offset, topic_id = new.topic_id
            FROM unnest($1::text[], $2::integer[], $3::bigint[], $4::text[], $5::bigint[], $6::text[])
                AS new (topic, partition, next_offset, topic_id, expected, expected_id)
            WHERE p.topic = new.topic AND p.partition = new.partition AND p.next_offset = new.expected
                AND p.topic_id IS NOT DISTINCT FROM new.expected_id
            RETURNING 1
        """

    async def find(
        self, connection: Connection, partitions: Collection[TopicPartition]
    ) -> Mapping[TopicPartition, StoredPosition]:
        """Where to continue; partitions that were never read are missing."""
        rows = await connection.fetch(self._find, sorted({each.topic for each in partitions}))
        found = {
            TopicPartition(row["topic"], row["partition"]): StoredPosition(int(row["next_offset"]), row["topic_id"])
            for row in rows
        }
        return {each: found[each] for each in partitions if each in found}

    async def move(self, connection: Connection, moves: Moves) -> None:
        """Move each partition from its expected position (None: none yet) to its new one.

        Call it within a transaction. Raises PartitionsLost if one of them is elsewhere: another process has moved
        it, or an earlier try of the same transaction was committed although its response was lost.
        """
        ordered = sorted(moves.items(), key=lambda move: move[0])
        new = [(each, following) for each, (expected, following) in ordered if expected is None]
        known = [(each, expected, following) for each, (expected, following) in ordered if expected is not None]
        moved = 0
        if new:
            moved += len(
                await connection.fetch(
                    self._begin,
                    [each.topic for each, _ in new],
                    [each.partition for each, _ in new],
                    [following.next_offset for _, following in new],
                    [following.topic_id for _, following in new],
                )
            )
        if known:
            moved += len(
                await connection.fetch(
                    self._move,
                    [each.topic for each, _, _ in known],
                    [each.partition for each, _, _ in known],
                    [following.next_offset for _, _, following in known],
                    [following.topic_id for _, _, following in known],
                    [expected.next_offset for _, expected, _ in known],
                    [expected.topic_id for _, expected, _ in known],
                )
            )
        if moved != len(moves):
            raise PartitionsLost(
                f"a position in {self._schema}.positions has been moved meanwhile: continue from the stored one"
            )
