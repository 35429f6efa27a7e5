"""Sessions that have held sensitive content: all their tasks are sensitive from then on.

A session is known by a mark, a digest. The marks of a partition are a fold over its journal, so that the decision that
makes a session sensitive and the knowledge of it are one record; those of all partitions come from a topic, a moment
later, since a session whose partition changes must stay what it is.

Memory is bounded, and what is forgotten must never lower a level. So marks beyond the bound go into a filter of bits:
it knows each of them, and may take another session for one. An error then costs the use of the cloud, not a secret.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final, Protocol

KEPT_MS: Final = 30 * 86_400_000
"""How long a session stays sensitive after its last task; each task of it is sensitive, and renews that."""
_HASHES: Final = 5


def session_mark(tenant: str, session: str) -> bytes:
    """The mark of a session; other tenants' sessions of the same name have other marks."""
    named = f"{len(tenant)}:{tenant}/{session}".encode("utf-8", "surrogatepass")
    return hashlib.sha256(named).digest()[:16]


class KnownSessions(Protocol):
    """What is known of sessions when a decision is made."""

    def has(self, mark: bytes, now: int) -> bool:
        """Whether a session is sensitive; times in milliseconds since the epoch."""
        ...


class NoSessions:
    """None is sensitive."""

    def has(self, mark: bytes, now: int) -> bool:
        return False


NO_SESSIONS: Final = NoSessions()


class SensitiveSessions:
    """Marks with the time of the newest task that showed them, bounded.

    Args:
        most: Most marks with their times; older ones go into the filter.
        filter_bytes: Size of the filter, of which there are at most two.
    """

    def __init__(self, most: int, filter_bytes: int) -> None:
        self._most = most
        self._at: OrderedDict[bytes, int] = OrderedDict()
        self._filter_bytes = filter_bytes
        # The one that is filled, and the one before it. What is in a filter has no time of its own, so that a filter is
        # dropped once all in it is too old: marks stay for one to two times as long as they have to.
        self._filters: list[tuple[int, bytearray]] = []

    def __len__(self) -> int:
        return len(self._at)

    def note(self, mark: bytes, at: int) -> None:
        """A task of the session has shown it at a time."""
        known = self._at.pop(mark, None)
        self._at[mark] = at if known is None else max(at, known)
        if len(self._at) > self._most:
            old, when = self._at.popitem(last=False)
            self._put_aside(old, when)

    def has(self, mark: bytes, now: int) -> bool:
        at = self._at.get(mark)
        if at is not None and now < at + KEPT_MS:
            return True
        return any(now < begun + 2 * KEPT_MS and _holds(bits, mark) for begun, bits in self._filters)

    def at(self, mark: bytes) -> int | None:
        """When a task last showed it; None if that is not known."""
        return self._at.get(mark)

    def items(self) -> Iterator[tuple[bytes, int]]:
        """The marks with their times, the longest ago first."""
        return iter(self._at.items())

    def _put_aside(self, mark: bytes, at: int) -> None:
        if not self._filters or at >= self._filters[-1][0] + KEPT_MS:
            self._filters = [*self._filters[-1:], (at, bytearray(self._filter_bytes))]
        bits = self._filters[-1][1]
        for byte, bit in _places(bits, mark):
            bits[byte] |= bit


def _holds(bits: bytearray, mark: bytes) -> bool:
    return all(bits[byte] & bit for byte, bit in _places(bits, mark))


def _places(bits: bytearray, mark: bytes) -> Iterator[tuple[int, int]]:
    # The mark is a digest, so its halves are independent numbers; their sums serve as well as more of them.
    first, step = int.from_bytes(mark[:8], "big"), int.from_bytes(mark[8:], "big") | 1
    for number in range(_HASHES):
        place = (first + number * step) % (len(bits) * 8)
        yield place >> 3, 1 << (place & 7)
