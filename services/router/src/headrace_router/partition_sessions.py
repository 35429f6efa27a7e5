"""The sensitive sessions of a partition, and what is known of those of others."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from headrace_router.decide.sensitive_sessions import KnownSessions, SensitiveSessions

_MOST: Final = 20_000
_FILTER_BYTES: Final = 256 * 1024
_MOST_UNTOLD: Final = 100_000
"""While nothing can be told; this partition knows of them all the same."""
_TOLD_AT_ONCE: Final = 200
_AGAIN_MS: Final = 5_000
"""How long it takes at least until what was told, and has not been seen, is told again."""
_RENEWED_MS: Final = 86_400_000
"""A session in use is told once a day, long before its topic forgets it."""


class PartitionSessions:
    """Sessions that this partition's journal shows to be sensitive, and those of other partitions.

    Args:
        elsewhere: The latter; where it knows times as well, the sessions of this partition are told until it has them.
    """

    def __init__(self, elsewhere: KnownSessions) -> None:
        self._own = SensitiveSessions(_MOST, _FILTER_BYTES)
        self._elsewhere = elsewhere
        # Not yet seen in the topic, with the time of the newest task, and when it was last told.
        self._untold: OrderedDict[bytes, tuple[int, int]] = OrderedDict()

    def has(self, mark: bytes, now: int) -> bool:
        """See `KnownSessions`."""
        return self._own.has(mark, now) or self._elsewhere.has(mark, now)

    def note(self, mark: bytes, at: int) -> None:
        """The journal shows a session to be sensitive."""
        self._own.note(mark, at)
        if self._seen(mark, at):
            return
        known = self._untold.get(mark)
        self._untold[mark] = at, 0 if known is None else known[1]
        if known is None:
            self._untold.move_to_end(mark, last=False)
            if len(self._untold) > _MOST_UNTOLD:
                self._untold.popitem()

    def untold(self, now: int) -> Sequence[tuple[bytes, int]]:
        """Some of those that other partitions do not know of, with the time of the newest task: tell them now."""
        found: list[tuple[bytes, int]] = []
        # Those that were never told are first, then the others, the longest ago first.
        while self._untold and len(found) < _TOLD_AT_ONCE:
            mark, (at, told) = next(iter(self._untold.items()))
            if self._seen(mark, at):
                del self._untold[mark]
            elif 0 <= now - told < _AGAIN_MS:
                break
            else:
                found.append((mark, at))
                self._untold[mark] = at, now
                self._untold.move_to_end(mark)
        return found

    def _seen(self, mark: bytes, at: int) -> bool:
        if not isinstance(self._elsewhere, SensitiveSessions):
            return True
        seen = self._elsewhere.at(mark)
        return seen is not None and at < seen + _RENEWED_MS
