"""The newest events of one feed partition, held in memory up to a limit in bytes."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from itertools import takewhile


@dataclass(frozen=True, slots=True)
class AnnouncedVersion:
    """A feed record, ready to be sent except for its id.

    Attributes:
        version: Name and version of the skill.
        published_at: When the version was published, in milliseconds since the epoch.
        payload: The server-sent event without its id.
    """

    partition: int
    offset: int
    key: bytes
    version: tuple[str, int]
    published_at: int
    payload: bytes


class Recent:
    """Events of one partition without gaps, from offset `since` up to, but not including, `until`."""

    def __init__(self, start: int, limit_bytes: int) -> None:
        """`start` is the offset of the first record that will be added."""
        self.since = start
        self.until = start
        self._limit_bytes = limit_bytes
        self._bytes = 0
        self._events: deque[AnnouncedVersion] = deque()

    def add(self, offset: int, told: AnnouncedVersion | None) -> None:
        """Add the record at `offset`; None for one without an event."""
        self.until = offset + 1
        if told is None:
            return
        self._events.append(told)
        self._bytes += len(told.payload)
        while self._bytes > self._limit_bytes and self._events:
            oldest = self._events.popleft()
            self._bytes -= len(oldest.payload)
            self.since = oldest.offset + 1

    def reach(self, offset: int) -> None:
        """Mark that no records before this offset are missing."""
        self.until = max(self.until, offset)

    def after(self, place: int) -> list[AnnouncedVersion]:
        """Events from the offset `place` on."""
        # From the newest on: thousands of agents that reconnect at once have missed little of what is held.
        missed = list(takewhile(lambda told: told.offset >= place, reversed(self._events)))
        missed.reverse()
        return missed


class RecentVersions:
    """Versions of skills sent recently, so that an agent with two of a skill's interests gets each once."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._seen: OrderedDict[tuple[str, int], None] = OrderedDict()

    def is_repeat(self, version: tuple[str, int]) -> bool:
        """Whether this version has been sent already; records it as sent."""
        if version in self._seen:
            return True
        self._seen[version] = None
        if len(self._seen) > self._most:
            self._seen.popitem(last=False)
        return False
