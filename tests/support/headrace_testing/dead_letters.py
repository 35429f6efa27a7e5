"""Stand-ins for `headrace_streams.dead_letters.DeadLetterSink`."""

from __future__ import annotations

from headrace_streams.records import Record


class NoDeadLetters:
    """For tests in which every record can be handled: fails on a dead letter."""

    async def keep(self, record: Record, error: Exception, attempts: int = 1) -> None:
        raise AssertionError(f"{record.topic}@{record.offset} was dead-lettered: {error}")


class KeptDeadLetters:
    """Collects dead letters in memory."""

    def __init__(self) -> None:
        self.kept: list[tuple[Record, Exception]] = []

    async def keep(self, record: Record, error: Exception, attempts: int = 1) -> None:
        self.kept.append((record, error))
