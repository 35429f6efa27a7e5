"""Tasks to decide about again although no input has arrived for them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from headrace_contracts.events import TaskCompleted

LeaderlessFollowers = tuple[str, TaskCompleted | None]
"""Digest of followers whose leader has ended, and its terminal state if known."""


class ReevaluationQueue:
    """Tasks that are due and followers whose leader has ended, oldest first, each once. Bounded by the number of live
    tasks and digests."""

    def __init__(self) -> None:
        # The flag keeps task ids and digests apart.
        self._items: OrderedDict[tuple[bool, str], str | LeaderlessFollowers] = OrderedDict()

    def __len__(self) -> int:
        return len(self._items)

    def add(self, task_ids: Iterable[str]) -> None:
        for task_id in task_ids:
            self._items.setdefault((False, task_id), task_id)

    def add_leaderless_followers(self, digest: str, result: TaskCompleted | None) -> None:
        """The result of the newest leader replaces an older one."""
        self._items[True, digest] = (digest, result)

    def take(self) -> str | LeaderlessFollowers:
        """Remove and return the oldest. Raises KeyError if there is none."""
        return self._items.popitem(last=False)[1]

    def put_back(self, item: str | LeaderlessFollowers) -> None:
        """Return one to the front."""
        key = (False, item) if isinstance(item, str) else (True, item[0])
        # A newer result may have been added since.
        self._items.setdefault(key, item)
        self._items.move_to_end(key, last=False)

    def clear(self) -> None:
        self._items.clear()
