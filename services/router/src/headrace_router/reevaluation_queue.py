"""What is to be looked at again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from headrace_contracts.events import TaskCompleted

LeaderlessFollowers = tuple[str, TaskCompleted | None]
"""Digest of followers whose leader has ended, and how it did, where that is known."""


class ReevaluationQueue:
    """Tasks whose time has come and followers whose leader has ended, longest first, each once: never more than there
    are live tasks and digests."""

    def __init__(self) -> None:
        # By task id and by digest, which must not be taken for each other.
        self._items: OrderedDict[tuple[bool, str], str | LeaderlessFollowers] = OrderedDict()

    def __len__(self) -> int:
        return len(self._items)

    def add(self, task_ids: Iterable[str]) -> None:
        for task_id in task_ids:
            self._items.setdefault((False, task_id), task_id)

    def add_leaderless_followers(self, digest: str, result: TaskCompleted | None) -> None:
        """What the newest leader has said stands."""
        self._items[True, digest] = (digest, result)

    def take(self) -> str | LeaderlessFollowers:
        """The first of all. Raises KeyError when there is none."""
        return self._items.popitem(last=False)[1]

    def put_back(self, item: str | LeaderlessFollowers) -> None:
        """To be the first again."""
        key = (False, item) if isinstance(item, str) else (True, item[0])
        # Something newer may have been said meanwhile.
        self._items.setdefault(key, item)
        self._items.move_to_end(key, last=False)

    def clear(self) -> None:
        self._items.clear()
