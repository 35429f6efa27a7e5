"""In-memory twin of the registry, for runs without a network: ids from a counter, no compatibility rules."""

from __future__ import annotations

from headrace_contracts.errors import SchemaMissing


class MemoryRegistry:
    """Stores schemas in the process. Equal schemas share an id, as in the real registry."""

    url = "memory:"

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._subjects: dict[str, set[int]] = {}

    async def close(self) -> None:
        """Nothing to close."""

    async def register(self, subject: str, schema: str) -> int:
        """Add a version unless it exists; returns its id."""
        schema_id = self._ids.setdefault(schema, len(self._ids) + 1)
        self._subjects.setdefault(subject, set()).add(schema_id)
        return schema_id

    async def id_of(self, subject: str, schema: str) -> int:
        """Id of a schema under a subject. Raises SchemaMissing when it has not been registered."""
        schema_id = self._ids.get(schema)
        if schema_id is None or schema_id not in self._subjects.get(subject, ()):
            raise SchemaMissing(f"{subject} does not hold this schema: register it first")
        return schema_id

    async def schema(self, schema_id: int) -> str | None:
        """The schema of an id, or None."""
        return next((text for text, known in self._ids.items() if known == schema_id), None)
