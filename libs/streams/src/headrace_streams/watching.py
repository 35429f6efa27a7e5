"""Asks the cluster whether positions still mean the logs they were taken from."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from headrace_streams.errors import StreamsError
from headrace_streams.log_identity import Broken, Continue, LogState, StoredPosition, Verdict, explained, judge
from headrace_streams.ports import Admin
from headrace_streams.records import TopicDescription, TopicPartition

ANSWER_SECONDS: Final = 5.0
"""How long one partition may keep the cluster's answer about the others waiting, and then its own."""

_LEAST_PAUSE_SECONDS: Final = 1.0

OnDiscontinuity = Callable[[TopicPartition, Broken], None]
"""Called for metrics, once for each partition whose position was not one of its log."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Looked:
    """What the cluster said.

    Attributes:
        topic_ids: Ids of the topics that exist; empty if they could not be asked.
        partitions: Their numbers of partitions.
        verdicts: For each position; those of partitions that did not answer in time are missing.
        bounds: First and next offset of the partitions that answered.
    """

    topic_ids: Mapping[str, str] = field(default_factory=dict)
    partitions: Mapping[str, int] = field(default_factory=dict)
    verdicts: Mapping[TopicPartition, Verdict] = field(default_factory=dict)
    bounds: Mapping[TopicPartition, tuple[int, int]] = field(default_factory=dict)


async def keep_looking(doubtful: asyncio.Event, every_seconds: float, look: Callable[[], Awaitable[None]]) -> None:
    """Call `look` at this interval, and soon after `doubtful` has been set, until cancelled. A moment lies between two
    calls: a topic with holes gives reason to doubt with every poll."""
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(every_seconds):
                await doubtful.wait()
        doubtful.clear()
        await look()
        await asyncio.sleep(_LEAST_PAUSE_SECONDS)


class LogWatch:
    """Compares positions with their logs. What cannot be asked is left out: it is compared the next time.

    Args:
        reader: Names the reader in messages.
        repeats_are_harmless: See `log_identity.judge`.
        form: What is stored of a topic's id.
    """

    def __init__(
        self,
        admin: Admin,
        reader: str,
        *,
        repeats_are_harmless: bool,
        on_discontinuity: OnDiscontinuity = lambda partition, verdict: None,
        form: Callable[[str], str] = str,
    ) -> None:
        self._admin = admin
        self._reader = reader
        self._repeats_are_harmless = repeats_are_harmless
        self._on_discontinuity = on_discontinuity
        self._form = form

    async def look(self, topics: Collection[str], positions: Mapping[TopicPartition, StoredPosition]) -> Looked:
        """Ask about these topics, and judge these positions in them. Says nothing of what it finds; see `tell`."""
        described = await self._described(topics)
        bounds = await self._bounds([name for name in positions if name.topic in described])
        looked = self._judged(described, positions, bounds)
        if any(not isinstance(verdict, Continue) for verdict in looked.verdicts.values()):
            # The topic may have been created again between the two questions, and the bounds be those of the new one.
            looked = self._judged(await self._described(topics), positions, bounds)
        return looked

    def _judged(
        self,
        described: Mapping[str, TopicDescription],
        positions: Mapping[TopicPartition, StoredPosition],
        bounds: Mapping[TopicPartition, tuple[int, int]],
    ) -> Looked:
        ids = {topic: self._form(description.topic_id) for topic, description in described.items()}
        harmless = self._repeats_are_harmless
        return Looked(
            ids,
            {topic: description.partitions for topic, description in described.items()},
            {
                name: judge(positions[name], LogState(ids[name.topic], first, end), repeats_are_harmless=harmless)
                for name, (first, end) in bounds.items()
                if name.topic in ids
            },
            bounds,
        )

    async def _described(self, topics: Collection[str]) -> Mapping[str, TopicDescription]:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self._admin.describe_topics(sorted(topics))
        except (StreamsError, TimeoutError) as error:
            _log.info("%s: the ids of its topics are not known at the moment: %s", self._reader, error)
            return {}

    def tell(self, partition: TopicPartition, stored: StoredPosition, verdict: Broken) -> None:
        """Say what happened, and what to do."""
        _log.error("%s", explained(self._reader, partition, stored, verdict))
        self._on_discontinuity(partition, verdict)

    async def _bounds(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, tuple[int, int]]:
        if not partitions:
            return {}
        together = await self._answer(partitions)
        if together is not None or len(partitions) == 1:
            return together or {}
        # One that does not answer must not hide the others.
        alone = await asyncio.gather(*[self._answer([name]) for name in partitions])
        return {name: bounds for answer in alone if answer is not None for name, bounds in answer.items()}

    async def _answer(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, tuple[int, int]] | None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self._admin.bounds(partitions)
        except (StreamsError, TimeoutError) as error:
            named = ", ".join(map(str, sorted(partitions)))
            _log.info("%s: the bounds of %s are not known at the moment: %s", self._reader, named, error)
            return None
