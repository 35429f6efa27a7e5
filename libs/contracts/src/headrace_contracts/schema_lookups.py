"""The schemas that values were written with, by the ids that the registry gave them.

An id is not believed forever. A registry that was emptied, restored or replaced gives its ids anew, so what it has said
expires: at once where a value does not fit, with the next `check_again` otherwise.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from headrace_contracts.errors import RegistryUnavailable, UnusableSchema
from headrace_contracts.turns import Turns
from headrace_contracts.writer_schemas import WriterSchema, writer_schema

NEGATIVE_SECONDS: Final = 5.0
"""How long an answer is believed that makes values unreadable."""
LARGEST_SCHEMA_ID: Final = 2**31 - 1
LOOKUP_SECONDS: Final = 2.0
"""How long whoever needs an id waits for the registry before it is told that the registry is unavailable."""

LOOKUPS_PER_SECOND: Final = 100
"""Questions about ids to the registry, of one process."""
TURN_SECONDS: Final = 0.5
"""How long an id waits for its turn to be asked about, behind those of other partitions."""

# Anybody may write any id, and in many installations register any schema.
_BURST: Final = 100
# Examining a schema that was not released occupies the process, some two milliseconds for so many.
_CHARACTERS_PER_TURN: Final = 4_096
_MAX_WAITING: Final = 50
_MAX_REFUSED: Final = 1_000
_MAX_SCHEMAS: Final = 1_000
_MAX_CHARACTERS: Final = 4 * 1024 * 1024
_MAX_LOOKUPS: Final = 4
_MAX_CHECKED: Final = 50

_log = logging.getLogger(__name__)


class SchemaSource(Protocol):
    """Where schemas are looked up."""

    async def schema(self, schema_id: int) -> str | None:
        """See `codec.Registry`."""
        ...


@dataclass(slots=True)
class LookedUp:
    """A schema, and when the registry was last asked about it."""

    schema: WriterSchema
    characters: int
    asked_at: float


@dataclass(frozen=True, slots=True)
class _Refusal:
    reason: str
    until: float


class SchemaLookups:
    """Finds writer schemas by id, and remembers them.

    Args:
        clock: Monotonic seconds.
        assure: Called before an id counts as unknown. Raises RegistryUnavailable if the registry has lost what it
            certainly held, so that its answer says nothing about the record.
        changed: Called when an id stands for another schema than before, or is forgotten.
    """

    def __init__(
        self,
        source: SchemaSource,
        clock: Callable[[], float],
        assure: Callable[[], Awaitable[None]],
        changed: Callable[[], None],
    ) -> None:
        self.known: dict[int, LookedUp] = {}
        # What ids stood for before: by id and full name, since a value of that type can only be of that time.
        self.former: dict[tuple[int, str], WriterSchema] = {}
        self._source = source
        self._clock = clock
        self._assure = assure
        self._changed = changed
        self._refused: dict[int, _Refusal] = {}
        self._lookups: dict[int, asyncio.Task[None]] = {}
        self._turns = Turns(LOOKUPS_PER_SECOND, _BURST, _MAX_LOOKUPS)
        self._by_source: Counter[Hashable] = Counter()
        self._gone: set[int] = set()

    def refusal(self, schema_id: int) -> str | None:
        """Why values with this id cannot be read now; None if the registry should be asked (again)."""
        refused = self._refused.get(schema_id)
        return refused.reason if refused is not None and self._clock() < refused.until else None

    def is_fresh(self, schema_id: int) -> bool:
        """Whether the registry has been asked about this id so lately that asking again makes no sense."""
        known = self.known.get(schema_id)
        if known is not None:
            return self._clock() - known.asked_at < NEGATIVE_SECONDS
        return self.refusal(schema_id) is not None

    def put(self, schema_id: int, schema: WriterSchema, characters: int) -> None:
        """What the registry says now that an id stands for."""
        before = self.known.pop(schema_id, None)
        self._refused.pop(schema_id, None)
        self._gone.discard(schema_id)
        self.known[schema_id] = LookedUp(schema, characters, self._clock())
        if before is not None and before.schema.fingerprint != schema.fingerprint:
            self._note_change(schema_id, before.schema, schema)
        while len(self.known) > 1 and (
            len(self.known) > _MAX_SCHEMAS or sum(each.characters for each in self.known.values()) > _MAX_CHARACTERS
        ):
            # What nobody released may have been registered to drive out the others.
            del self.known[
                next((each for each, known in self.known.items() if not known.schema.released), next(iter(self.known)))
            ]
            self._changed()

    def _note_change(self, schema_id: int, before: WriterSchema, now: WriterSchema) -> None:
        _log.error(
            "the registry has given schema id %d to another schema: it was %s (%.12s), it is %s (%.12s). The registry "
            "was emptied, restored or replaced: run `headrace schemas check`",
            schema_id, before.name or "no record", before.fingerprint, now.name or "no record", now.fingerprint,
        )  # fmt: skip
        if before.name and before.name != now.name:
            if len(self.former) >= _MAX_SCHEMAS:
                del self.former[next(iter(self.former))]
            self.former[schema_id, before.name] = before
        self._changed()

    def fetch(self, schema_id: int, source: Hashable = None) -> asyncio.Future[None]:
        """A future of this caller's own of the lookup that all who need this id share; see `Codec.fetch`."""
        lookup = self._lookups.get(schema_id)
        if lookup is None:
            loop = asyncio.get_running_loop()
            if self._by_source[source] >= _MAX_WAITING:
                return self._not_now(schema_id, loop.create_future())
            lookup = loop.create_task(self._look_up(schema_id, source), name=f"schema {schema_id}")
            self._lookups[schema_id] = lookup
            self._by_source[source] += 1
            lookup.add_done_callback(partial(self._ended, schema_id, source))
        # Cancelling it leaves the lookup to the others.
        own = asyncio.shield(lookup)
        own.add_done_callback(_seen)
        return own

    def _ended(self, schema_id: int, source: Hashable, _: asyncio.Task[None]) -> None:
        del self._lookups[schema_id]
        self._by_source[source] -= 1
        if not self._by_source[source]:
            del self._by_source[source]

    def _not_now(self, schema_id: int, lookup: asyncio.Future[None]) -> asyncio.Future[None]:
        """Without a task, as there may be many of these."""
        try:
            self._unanswered(schema_id, "its partition has many others that the registry is asked about first")
            lookup.set_result(None)
        except RegistryUnavailable as error:
            lookup.set_exception(error)
            _seen(lookup)
        return lookup

    async def _look_up(self, schema_id: int, source: Hashable) -> None:
        if schema_id > LARGEST_SCHEMA_ID:
            self._refuse(schema_id, "no registry gives such an id")
            return
        try:
            async with asyncio.timeout(TURN_SECONDS) as waiting, self._turns.turn(source):
                waiting.reschedule(asyncio.get_running_loop().time() + LOOKUP_SECONDS)
                reason = await self._ask(schema_id)
                if reason is not None:
                    await self._assure()
                    self._refuse(schema_id, reason)
        except RegistryUnavailable:
            if schema_id not in self.known:
                raise
            self._unanswered(schema_id, "")
        except TimeoutError:
            within = f"{TURN_SECONDS:g} s, or {LOOKUP_SECONDS:g} s from its turn on"
            self._unanswered(schema_id, f"the schema registry has not answered within {within}")

    def _unanswered(self, schema_id: int, why: str) -> None:
        """Raises RegistryUnavailable, unless the id is known: then what the registry said before holds."""
        known = self.known.get(schema_id)
        if known is None:
            raise RegistryUnavailable(f"schema {schema_id}: {why}")
        # Asked again about an id whose values do not fit.
        known.asked_at = self._clock()

    async def _ask(self, schema_id: int) -> str | None:
        """Ask the registry; returns why values with this id cannot be read, None if they can."""
        text: str | None = None
        try:
            text = await self._source.schema(schema_id)
            if text is None:
                return "the registry does not know it. If it has lost it, `headrace schemas repair` brings it back"
            schema = writer_schema(text)
        except UnusableSchema as error:
            if text is not None:
                self._turns.charge(len(text) / _CHARACTERS_PER_TURN)
            return str(error)
        if not schema.released:
            self._turns.charge(len(text) / _CHARACTERS_PER_TURN)
        self.put(schema_id, schema, len(text))
        return None

    def _refuse(self, schema_id: int, reason: str) -> None:
        known = self.known.get(schema_id)
        if known is not None:
            self._note_gone(schema_id, known, reason)
            return
        if len(self._refused) >= _MAX_REFUSED:
            del self._refused[next(iter(self._refused))]
        self._refused[schema_id] = _Refusal(reason, self._clock() + NEGATIVE_SECONDS)

    def _note_gone(self, schema_id: int, known: LookedUp, reason: str) -> None:
        """The registry no longer has a schema that it had: values of that time can still be read."""
        known.asked_at = self._clock()
        if schema_id not in self._gone:
            self._gone.add(schema_id)
            _log.error(
                "the registry no longer has schema id %d (%s): %s. This process still reads its values; after a "
                "restart it cannot. Run `headrace schemas repair`",
                schema_id, known.schema.name or "no record", reason,
            )  # fmt: skip

    async def check_again(self) -> None:
        """Ask about the ids asked about longest ago. Raises RegistryUnavailable."""
        for schema_id, known in sorted(self.known.items(), key=lambda item: item[1].asked_at)[:_MAX_CHECKED]:
            if self.is_fresh(schema_id):
                return
            reason = await self._ask(schema_id)
            if reason is not None and schema_id in self.known:
                self._note_gone(schema_id, known, reason)


def _seen(lookup: asyncio.Future[None]) -> None:
    """Its failure is for those who wait; asyncio need not report it if nobody does any more."""
    if not lookup.cancelled():
        lookup.exception()
