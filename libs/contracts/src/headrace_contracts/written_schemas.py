"""The schemas that a process writes, and the ids it writes them with.

Nothing is written with an id that the registry has not confirmed: whoever reads it trusts the registry, and would take
the value for one of another type.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from headrace_contracts.errors import (
    RegistryUnavailable,
    SchemaIdsLost,
    SchemaIncompatible,
    SchemaMissing,
    UnusableSchema,
)
from headrace_contracts.schema_lookups import NEGATIVE_SECONDS, SchemaLookups, SchemaSource
from headrace_contracts.writer_schemas import WriterSchema, writer_schema

REPAIR: Final = "Restore the registry, or run `headrace schemas repair`; services then continue by themselves"
ASSURE_SECONDS: Final = 2.0

_log = logging.getLogger(__name__)


class SchemaIds(SchemaSource, Protocol):
    """Where ids are looked up."""

    async def register(self, subject: str, schema: str) -> int: ...

    async def id_of(self, subject: str, schema: str) -> int: ...


@dataclass(slots=True)
class Written:
    """A schema that this process writes.

    Attributes:
        lost: Why nothing may be written with the id now; None if it is confirmed.
    """

    subject: str
    text: str
    schema: WriterSchema
    may_register: bool
    schema_id: int
    lost: str | None = None


class WrittenSchemas:
    """Finds the ids of schemas to write, and keeps checking that they still stand for them.

    Args:
        changed: Called when an id, or whether it may be used, has changed.
    """

    def __init__(
        self, source: SchemaIds, lookups: SchemaLookups, clock: Callable[[], float], changed: Callable[[], None]
    ) -> None:
        self.by_name: dict[str, Written] = {}
        self._source = source
        self._lookups = lookups
        self._clock = clock
        self._changed = changed
        self._checked_at = -NEGATIVE_SECONDS
        self._one_at_a_time = asyncio.Lock()

    def lost(self) -> dict[str, str]:
        """Why nothing can be written, by subject; empty if all is well."""
        return {each.subject: each.lost for each in self.by_name.values() if each.lost is not None}

    async def add(self, name: str, subject: str, text: str, schema: WriterSchema, *, may_register: bool) -> None:
        """Find and confirm the id of a schema. Raises SchemaMissing, SchemaIncompatible, RegistryUnavailable."""
        schema_id = await self._find(subject, text, may_register=may_register)
        before = self.by_name.get(name)
        confirmed = any(
            each.schema_id == schema_id and each.schema.fingerprint == schema.fingerprint and each.lost is None
            for each in self.by_name.values()
        ) and self._lookups.is_fresh(schema_id)
        if not confirmed and (reason := await self._mismatch(schema_id, schema)) is not None:
            if before is not None:
                before.lost = reason
                self._changed()
            raise SchemaIdsLost(f"{subject}: {reason}. {REPAIR}")
        self.by_name[name] = Written(subject, text, schema, may_register, schema_id)
        self._checked_at = self._clock()
        self._changed()

    async def _find(self, subject: str, text: str, *, may_register: bool) -> int:
        ask = self._source.register if may_register else self._source.id_of
        return await ask(subject, text)

    async def _mismatch(self, schema_id: int, schema: WriterSchema) -> str | None:
        """Why the id does not stand for this schema in the registry; None if it does."""
        try:
            text = await self._source.schema(schema_id)
            if text is None:
                return f"the registry has no schema under its id {schema_id}"
            found = writer_schema(text)
        except UnusableSchema as error:
            return f"the registry has another schema under its id {schema_id}: {error}"
        same = found.fingerprint == schema.fingerprint
        self._lookups.put(schema_id, schema if same else found, len(text))
        return None if same else f"the registry has {found.name or 'no record'} under its id {schema_id}"

    async def check(self) -> None:
        """Ask the registry about every id again, and look up those anew that it has lost or given away.

        Raises RegistryUnavailable; what was confirmed before stays so.
        """
        async with self._one_at_a_time:
            answers: dict[tuple[int, str], str | None] = {}
            before = self.lost()
            moved: list[str] = []
            for written in list(self.by_name.values()):
                what = (written.schema_id, written.schema.fingerprint)
                if what not in answers:
                    answers[what] = await self._mismatch(written.schema_id, written.schema)
                was = written.schema_id
                await self._judge(written, answers[what])
                if written.schema_id != was:
                    moved.append(f"{written.subject} ({was}, now {written.schema_id})")
            self._checked_at = self._clock()
            self._say(before, moved)

    def _say(self, before: dict[str, str], moved: list[str]) -> None:
        now = self.lost()
        if new := [subject for subject in now if subject not in before]:
            _log.error(
                "%s: %s. Nothing is written to %d subjects until that is mended: %s. %s",
                new[0], now[new[0]], len(new), ", ".join(new), REPAIR,
            )  # fmt: skip
        if back := [subject for subject in before if subject not in now]:
            _log.warning("the registry holds schemas again that it had lost: %s", ", ".join(back))
        if moved:
            _log.error(
                "the registry has given schemas other ids, which are written from now on: %s. It was emptied, restored "
                "or replaced; what was written before can be read again after `headrace schemas repair`",
                ", ".join(moved),
            )

    async def _judge(self, written: Written, mismatch: str | None) -> None:
        if mismatch is None:
            if written.lost is not None:
                written.lost = None
                self._changed()
            return
        # At once: this may take a while.
        written.lost = mismatch
        self._changed()
        try:
            schema_id = await self._find(written.subject, written.text, may_register=written.may_register)
            if schema_id == written.schema_id or await self._mismatch(schema_id, written.schema) is not None:
                return
        except SchemaMissing:
            return
        except SchemaIncompatible as error:
            _log.error("%s cannot be registered again: %s", written.subject, error)
            return
        written.schema_id, written.lost = schema_id, None
        self._changed()

    async def assure(self) -> None:
        """Return if the registry holds what this process writes. Raises SchemaIdsLost, RegistryUnavailable."""
        if self._clock() - self._checked_at >= NEGATIVE_SECONDS and self.by_name:
            try:
                async with asyncio.timeout(ASSURE_SECONDS):
                    await self.check()
            except TimeoutError as error:
                raise RegistryUnavailable(
                    f"the schema registry has not answered within {ASSURE_SECONDS:g} s"
                ) from error
        if lost := self.lost():
            subject, reason = next(iter(lost.items()))
            raise SchemaIdsLost(f"{subject}: {reason}. {REPAIR}")
