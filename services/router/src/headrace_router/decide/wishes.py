"""Wishes to stop tasks that have not come yet: they travel on a topic of their own and may overtake them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

from headrace_contracts.events import JournalEntry, TaskCancelled


class UnreadWish(Protocol):
    """A journaled wish that is not decoded yet."""

    def entry(self) -> JournalEntry: ...


class EarlyWishes:
    """The first wish for each task, bounded by number and age, as journaled.

    Args:
        most: Most wishes kept; the oldest goes first.
        keep_ms: How long a wish is kept, in milliseconds.
    """

    def __init__(self, most: int, keep_ms: int) -> None:
        self._most = most
        self._keep_ms = keep_ms
        self._wishes: OrderedDict[str, tuple[int, TaskCancelled | UnreadWish]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._wishes)

    def keep(self, task_id: str, wish: TaskCancelled | UnreadWish, at: int, now: int) -> None:
        """Take a wish that was journaled at a time (milliseconds since the epoch)."""
        while self._wishes and now >= next(iter(self._wishes.values()))[0] + self._keep_ms:
            self._wishes.popitem(last=False)
        if now >= at + self._keep_ms:
            return
        self._wishes.setdefault(task_id, (at, wish))
        if len(self._wishes) > self._most:
            self._wishes.popitem(last=False)

    def find(self, task_id: str, now: int) -> TaskCancelled | None:
        found = self._wishes.get(task_id)
        if found is None or now >= found[0] + self._keep_ms:
            return None
        at, wish = found
        if not isinstance(wish, TaskCancelled):
            unpacked = wish.entry().wish
            if unpacked is None:
                del self._wishes[task_id]
                return None
            self._wishes[task_id] = (at, wish := unpacked)
        return wish

    def forget(self, task_id: str) -> None:
        """The task has come."""
        self._wishes.pop(task_id, None)
