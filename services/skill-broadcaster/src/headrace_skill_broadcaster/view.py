"""The whole catalog in memory: for reads, for search, and for callers that wait for their submission."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from headrace_contracts.events import SkillPublished, SkillStatus

from headrace_skill_broadcaster.adapters.search_index import IndexEntry, Removal, SearchIndex
from headrace_skill_broadcaster.decide.catalog import skill_key, supersedes
from headrace_skill_broadcaster.decide.quotas import Holding
from headrace_skill_broadcaster.decide.search import SearchQuery, next_cursor

_NOTHING: Final = Holding()


class CatalogView:
    """Follows `skills.catalog` through `apply`, and passes changes on to the search index in batches."""

    def __init__(self, index: SearchIndex) -> None:
        self._index = index
        self._entries: dict[str, SkillPublished] = {}
        self._held: dict[str, Holding] = {}
        self._forgotten: dict[str, int] = {}
        self._waiting: dict[str, asyncio.Future[SkillPublished]] = {}
        self._unindexed: dict[str, IndexEntry | Removal] = {}
        self._stirred = asyncio.Event()

    def __len__(self) -> int:
        return len(self._entries)

    def apply(self, key: str, entry: SkillPublished | None) -> None:
        """Apply a record of the catalog: a skill's current state, or None if the record was removed."""
        if entry is None:
            if (removed := self._entries.pop(key, None)) is not None:
                tenant, _, name = key.rpartition("/")
                self._count(removed.tenant, removed, None)
                self._index_later(key, Removal(tenant, name))
            return
        if entry.forgotten_version > self._forgotten.get(entry.tenant, 0):
            self._forgotten[entry.tenant] = entry.forgotten_version
        waiting = self._waiting.get(entry.submission_id)
        if waiting is not None and not waiting.done():
            waiting.set_result(entry)
        if not supersedes(entry, self._entries.get(key)):
            return
        self._count(entry.tenant, self._entries.get(key), entry)
        self._entries[key] = entry
        if entry.status is SkillStatus.LIVE:
            self._index_later(key, IndexEntry(entry.tenant, entry.name, entry.title, entry.summary, entry.interests))
        else:
            self._index_later(key, Removal(entry.tenant, entry.name))

    def _count(self, tenant: str, before: SkillPublished | None, after: SkillPublished | None) -> None:
        held = self._held[tenant] = self.held_by(tenant).with_change(before, after)
        if not held.skills:
            del self._held[tenant]

    def held_by(self, tenant: str) -> Holding:
        """What a tenant has in the catalog."""
        return self._held.get(tenant, _NOTHING)

    def forgotten_version(self, tenant: str) -> int:
        """The highest version among the tenant's skills that the catalog has forgotten, as far as it was heard of."""
        return self._forgotten.get(tenant, 0)

    def get(self, tenant: str, name: str) -> SkillPublished | None:
        """A skill's current state, live or revoked."""
        return self._entries.get(skill_key(tenant, name))

    def by_key(self, key: str) -> SkillPublished | None:
        """The same by the key of its records."""
        return self._entries.get(key)

    @contextmanager
    def expecting(self, submission_id: str) -> Iterator[asyncio.Future[SkillPublished]]:
        """The catalog record that results from a submission sent inside the block, as soon as it is there."""
        waiting: asyncio.Future[SkillPublished] = asyncio.get_running_loop().create_future()
        self._waiting[submission_id] = waiting
        try:
            yield waiting
        finally:
            del self._waiting[submission_id]

    async def search(self, question: SearchQuery) -> tuple[tuple[SkillPublished, ...], str | None]:
        """A page of live skills and the cursor of the next one; reflects everything that `apply` has received."""
        await self._index_pending()
        found = await self._index.search(question)
        entries = (self.get(question.tenant, name) for name in found.names[: question.limit])
        return tuple(entry for entry in entries if entry is not None), next_cursor(question, found)

    async def run(self) -> None:
        """Index changes as they come, until cancelled."""
        while True:
            await self._stirred.wait()
            self._stirred.clear()
            await self._index_pending()

    async def close(self) -> None:
        """Close the index."""
        await self._index.close()

    def _index_later(self, key: str, change: IndexEntry | Removal) -> None:
        self._unindexed[key] = change
        self._stirred.set()

    async def _index_pending(self) -> None:
        changes, self._unindexed = self._unindexed, {}
        if changes:
            await self._index.apply(tuple(changes.values()))
