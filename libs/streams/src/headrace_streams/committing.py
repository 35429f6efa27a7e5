"""Commits the offsets and maps of partitions: one commit at a time, and only for partitions that have changed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from headrace_streams.errors import PartitionsLost, TransientError
from headrace_streams.ports import Consumer
from headrace_streams.records import OffsetAndMetadata, TopicPartition
from headrace_streams.work import AssignedPartition

_log = logging.getLogger(__name__)

_TRIES = 5
_RETRY_SECONDS = 0.2


class Committer:
    """Commits for one member of a group."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._committing = asyncio.Lock()

    async def commit(self, partitions: Iterable[AssignedPartition]) -> bool:
        """Commit what has changed. Returns True if nothing is left to commit, or the partitions are no longer ours."""
        # One at a time: an older commit that arrived after a newer one would move the group back.
        async with self._committing:
            progress: dict[TopicPartition, OffsetAndMetadata] = {}
            changes: dict[AssignedPartition, int] = {}
            for partition in partitions:
                if partition.tracker.changes != partition.committed_changes:
                    # Both are read before anything is awaited; a change during the commit is committed next time.
                    reached = partition.tracker.committable()
                    if reached is not None:
                        progress[partition.name] = reached
                        changes[partition] = partition.tracker.changes
            if not progress:
                return True
            try:
                await self._consumer.commit(progress)
            except PartitionsLost as error:
                _log.info("commit refused, the partitions belong to another member: %s", error)
                return True
            except TransientError as error:
                _log.warning("commit failed, trying again: %s", error)
                return False
            for partition, committed in changes.items():
                partition.committed_changes = committed
            return True

    async def commit_at_last(self, partitions: Iterable[AssignedPartition]) -> None:
        """Commit partitions that are being revoked. Tries several times: this is the last chance."""
        partitions = list(partitions)
        for _ in range(_TRIES):
            if await self.commit(partitions):
                return
            await asyncio.sleep(_RETRY_SECONDS)
        names = ", ".join(str(partition.name) for partition in partitions)
        _log.warning("offsets of %s could not be committed; the next owner will process some records again", names)
