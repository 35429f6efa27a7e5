"""Cancellation requests for tasks that have not arrived yet: they have a topic of their own and may overtake tasks."""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

from headrace_contracts.events import JournalEntry, TaskCancelled


class UnreadCancellation(Protocol):
    """A journaled cancellation request, not decoded yet."""

    def entry(self) -> JournalEntry: ...


class EarlyCancellations:
    """The first cancellation request for each task, bounded by number and age, as journaled.

    Args:
        most: Most cancellation requests held; the oldest is evicted first.
        keep_ms: How long a cancellation request is held, in milliseconds.
    """

    def __init__(self, most: int, keep_ms: int) -> None:
        self._most = most
        self._keep_ms = keep_ms
        self._cancellations: OrderedDict[str, tuple[int, TaskCancelled | UnreadCancellation]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._cancellations)

    def keep(self, task_id: str, cancellation: TaskCancelled | UnreadCancellation, at: int, now: int) -> None:
        """Add a cancellation request that was journaled at a time (milliseconds since the epoch)."""
        while self._cancellations and now >= next(iter(self._cancellations.values()))[0] + self._keep_ms:
            self._cancellations.popitem(last=False)
        if now >= at + self._keep_ms:
            return
        self._cancellations.setdefault(task_id, (at, cancellation))
        if len(self._cancellations) > self._most:
            self._cancellations.popitem(last=False)

    def find(self, task_id: str, now: int) -> TaskCancelled | None:
        found = self._cancellations.get(task_id)
        if found is None or now >= found[0] + self._keep_ms:
            return None
        at, cancellation = found
        if not isinstance(cancellation, TaskCancelled):
            unpacked = cancellation.entry().cancellation
            if unpacked is None:
                del self._cancellations[task_id]
                return None
            self._cancellations[task_id] = (at, cancellation := unpacked)
        return cancellation

    def forget(self, task_id: str) -> None:
        """Forget the request: its task has arrived."""
        self._cancellations.pop(task_id, None)
