"""Trouble of single partitions that lasts until it is healed, for tests and simulations."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from headrace_streams.errors import StreamsError
from headrace_streams.records import TopicPartition


class Sense(StrEnum):
    """What of a partition may be sick: appends to it, reads from it, or queries of its bounds."""

    APPENDS = "appends"
    READS = "reads"
    BOUNDS = "bounds"


@dataclass(frozen=True, slots=True)
class Ailment:
    """How a sick partition answers.

    Attributes:
        error: What the client raises; None hangs until the partition is healed.
        after_seconds: Time until it raises.
        performed: Whether an append takes place all the same, as when only its response is lost.
    """

    error: StreamsError | None = None
    after_seconds: float = 0.0
    performed: bool = False


HANGS: Final = Ailment()


class Ailments:
    """The sick partitions of a cluster."""

    def __init__(self) -> None:
        self._sick: dict[tuple[Sense, TopicPartition], Ailment] = {}
        self._healed: dict[TopicPartition, asyncio.Event] = {}

    def sicken(self, partition: TopicPartition, ailments: Iterable[tuple[Sense, Ailment]]) -> None:
        self._healed.setdefault(partition, asyncio.Event())
        for sense, ailment in ailments:
            self._sick[sense, partition] = ailment

    def heal(self, partition: TopicPartition) -> None:
        for sense in Sense:
            self._sick.pop((sense, partition), None)
        healed = self._healed.pop(partition, None)
        if healed is not None:
            healed.set()

    def of(self, sense: Sense, partition: TopicPartition) -> Ailment | None:
        return self._sick.get((sense, partition)) if self._sick else None

    async def endure(self, sense: Sense, partitions: Iterable[TopicPartition]) -> Ailment | None:
        """Wait while one of the partitions hangs. Raises its error; an ailment that performs is returned instead."""
        for partition in partitions:
            while (ailment := self.of(sense, partition)) is not None:
                if ailment.error is None:
                    await self._healed[partition].wait()
                    continue
                await asyncio.sleep(ailment.after_seconds)
                if ailment.performed:
                    return ailment
                # Every request has its own instance: a raised exception carries the traceback of its raising.
                raise type(ailment.error)(*ailment.error.args)
        return None
