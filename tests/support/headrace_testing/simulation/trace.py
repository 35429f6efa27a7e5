"""A digest of everything that happened, and its last lines as text."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable

_LAST = 400


class Trace:
    """Every event of one simulation, in order, with its virtual time.

    Args:
        clock: Virtual seconds.
        keep_all: Whether to store all lines instead of only the last.
    """

    def __init__(self, clock: Callable[[], float], *, keep_all: bool = False) -> None:
        self.lines: deque[str] = deque(maxlen=None if keep_all else _LAST)
        self.faults: Counter[str] = Counter()
        self.boundaries: Counter[tuple[str, str]] = Counter()
        """Faults at I/O boundaries, by kind and operation."""
        self.before_violation: tuple[str, ...] = ()
        """The events before the first violation."""
        self._clock = clock
        self._digest = hashlib.blake2b(digest_size=16)

    def note(self, line: str) -> None:
        """Add an event."""
        line = f"{self._clock():.6f} {line}"
        self._digest.update(line.encode())
        self.lines.append(line)

    def fault(self, kind: str, about: str) -> None:
        """Add an injected fault."""
        self.faults[kind] += 1
        self.note(f"! {kind} {about}")

    def violation(self, what: str) -> None:
        """Add a broken promise."""
        self.note(f"VIOLATION {what}")
        self.before_violation = self.before_violation or tuple(self.lines)

    def digest(self) -> str:
        return self._digest.hexdigest()
