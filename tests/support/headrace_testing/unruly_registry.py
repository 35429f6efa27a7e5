"""A schema registry in memory that is emptied, restored, replaced, silent or away whenever a test says so."""

from __future__ import annotations

import asyncio

from headrace_contracts.errors import RegistryUnavailable, SchemaMissing


class UnrulyRegistry:
    """Gives ids as a registry does, and counts what it is asked for by id.

    Attributes:
        away: Whether every question fails at once.
        silent: Whether no question is ever answered.
        asked: Ids asked for, in order.
        waiting: Number of questions without an answer now.
        most_waiting: The largest number so far.
    """

    url = "memory:"

    def __init__(self) -> None:
        self.away = False
        self.silent = False
        self.asked: list[int] = []
        self.waiting = 0
        self.most_waiting = 0
        self._texts: dict[int, str] = {}
        self._subjects: dict[str, set[int]] = {}
        self._next = 1

    async def close(self) -> None:
        """Nothing to close."""

    def wipe(self, *, next_id: int = 1) -> None:
        """Forget everything; the next schema gets this id."""
        self._texts.clear()
        self._subjects.clear()
        self._next = next_id

    def put(self, schema_id: int, subject: str, text: str) -> None:
        """Give an id to a schema, whatever it was before."""
        self._texts[schema_id] = text
        self._subjects.setdefault(subject, set()).add(schema_id)
        self._next = max(self._next, schema_id + 1)

    def forget(self, schema_id: int) -> None:
        """Lose one schema."""
        del self._texts[schema_id]
        for ids in self._subjects.values():
            ids.discard(schema_id)

    def shuffle(self, by: int) -> None:
        """Give every schema the id of another one."""
        ids = sorted(self._texts)
        moved = {old: ids[(place + by) % len(ids)] for place, old in enumerate(ids)}
        self._texts = {moved[old]: text for old, text in self._texts.items()}
        self._subjects = {subject: {moved[old] for old in held} for subject, held in self._subjects.items()}

    async def register(self, subject: str, schema: str) -> int:
        await self._answer()
        schema_id = next((known for known, text in self._texts.items() if text == schema), self._next)
        self.put(schema_id, subject, schema)
        return schema_id

    async def id_of(self, subject: str, schema: str) -> int:
        await self._answer()
        for schema_id in self._subjects.get(subject, ()):
            if self._texts.get(schema_id) == schema:
                return schema_id
        raise SchemaMissing(f"{subject} does not hold this schema: register it first")

    async def schema(self, schema_id: int) -> str | None:
        self.asked.append(schema_id)
        await self._answer()
        return self._texts.get(schema_id)

    async def _answer(self) -> None:
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        try:
            if self.silent:
                await asyncio.Event().wait()
            # As on a network, others run meanwhile.
            await asyncio.sleep(0)
            if self.away:
                raise RegistryUnavailable("the registry is away")
        finally:
            self.waiting -= 1
