"""Events to bytes and back: Avro in the Confluent wire format (a zero byte, the schema id, the value)."""

from __future__ import annotations

import asyncio
import io
import struct
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

import fastavro
from fastavro.read import SchemaResolutionError
from fastavro.types import Schema
from fastavro.validation import ValidationError, validate

from headrace_contracts.decoding_limits import DecodingLimits, TooManyValues, limits_of
from headrace_contracts.errors import (
    BadBytes,
    NullValue,
    Origin,
    SchemaIdsLost,
    SchemaNotCached,
    UnencodableEvent,
    UnknownSchema,
)
from headrace_contracts.events._schemas import SCHEMAS
from headrace_contracts.prefix import prefix_schema
from headrace_contracts.schema_lookups import SchemaLookups
from headrace_contracts.schema_texts import Types
from headrace_contracts.topics import Event, TopicSpec, topic_named
from headrace_contracts.writer_schemas import StrictBytes, WriterSchema, own_schema
from headrace_contracts.written_schemas import REPAIR, WrittenSchemas

E = TypeVar("E", bound=Event)

_MAGIC = b"\x00"
_PREFIX = struct.Struct(">bI")
_OWN_NAMES = "headrace."


def schema_text(record: type[Any]) -> str:
    """The schema of an event class, as registered."""
    return SCHEMAS[record.FULL_NAME]


def _misfits(schema: Schema, event: Event) -> str:
    """Names of the fields that violate the schema. The encoder's own message would quote their content."""
    try:
        validate(event.to_avro(named=True), schema, raise_errors=True)
    except ValidationError as error:
        return ", ".join(dict.fromkeys(str(each.field) for each in error.errors))
    except Exception:  # noqa: BLE001 - validation fails as the encoder did, without naming fields
        return ""
    return ""


def _words(error: Exception) -> str:
    """What went wrong in decoding. Its message may quote the value, unless it is about schemas or our own limits."""
    says = isinstance(error, (SchemaResolutionError, TooManyValues))
    return f"{type(error).__name__}: {error}" if says else type(error).__name__


def _other_type(name: str, expected: str) -> str:
    """Why a value cannot be read whose id stands for another type."""
    says = f"holds {name or 'no record'}, expected {expected}"
    if name.startswith(_OWN_NAMES):
        return f"{says}: if the registry gave the id to another schema later, run `headrace schemas repair`"
    return says


class Registry(Protocol):
    """The part of a schema registry that the codec needs."""

    async def register(self, subject: str, schema: str) -> int: ...

    async def id_of(self, subject: str, schema: str) -> int: ...

    async def schema(self, schema_id: int) -> str | None:
        """An Avro schema that is complete in itself; None for an unknown id. Raises UnusableSchema for any other."""
        ...


class Codec:
    """Encodes and decodes events with schema ids from a registry; encode and decode perform no I/O.

    Call `check` now and then: it finds out whether the registry's ids still stand for what they stood for.

    Args:
        registry: Source of the schema ids.
        topic_prefix: Prefix of all topics and subjects of the installation.
        clock: Monotonic seconds.
    """

    def __init__(
        self, registry: Registry, topic_prefix: str = "headrace.", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.topic_prefix = topic_prefix
        self._registry = registry
        self._lookups = SchemaLookups(registry, clock, self._assure, self._forget_prefixes)
        self._written = WrittenSchemas(registry, self._lookups, clock, self._name_schemas)
        self._known = self._lookups.known
        # The bytes that name the schema, by topic, of those that may be written.
        self._heads: dict[str, bytes] = {}
        # By class: the bytes that name the schema, and the fields.
        self._prefixes: dict[tuple[type[Any], bytes | None, tuple[str, ...]], tuple[Schema, DecodingLimits]] = {}

    async def prepare(self, specs: Iterable[TopicSpec], *, register: bool = False) -> None:
        """Find the ids of the schemas that will be written to these topics, and confirm that they stand for them.

        With `register`, add missing ones, now and in `check`. Raises SchemaMissing, SchemaIncompatible,
        RegistryUnavailable, and SchemaIdsLost if the registry has another schema under the id that it gives.
        """
        for spec in specs:
            text = schema_text(spec.record)
            schema = own_schema(spec.record.FULL_NAME)
            await self._written.add(spec.name, self.topic_prefix + spec.subject, text, schema, may_register=register)

    async def check(self) -> None:
        """Ask the registry about the ids in use again.

        Where an id that is written no longer stands for its schema, its id is looked up anew; until there is one,
        `encode` raises SchemaIdsLost for its topics, and `trouble` names them. Values are read with what the registry
        says now. Raises RegistryUnavailable; what it said before then holds.
        """
        await self._written.check()
        await self._lookups.check_again()

    @property
    def trouble(self) -> str | None:
        """Which topics cannot be written since the registry has lost their schemas; None if all is well."""
        lost = self._written.lost()
        if not lost:
            return None
        subject, reason = next(iter(lost.items()))
        others = f" and {len(lost) - 1} others" if len(lost) > 1 else ""
        return f"cannot write {subject}{others}: {reason}. {REPAIR}"

    @property
    def subjects_lost(self) -> int:
        """Number of written subjects of which the registry has lost the schema."""
        return len(self._written.lost())

    def fetch(self, schema_id: int, origin: Origin | None = None) -> asyncio.Future[None]:
        """Look an id up; returns at once.

        All who need the id share one lookup, and each gets a future of its own, which may be cancelled or left alone.
        It is done within `TURN_SECONDS` and `LOOKUP_SECONDS`: decode again then, which either works or raises
        UnreadableValue. It fails with RegistryUnavailable if the registry gives no answer, has lost what it certainly
        held (SchemaIdsLost), or is asked about too many ids: try again after a pause.

        Ids are asked about in turn among the partitions in `origin`, at most `LOOKUPS_PER_SECOND`: a partition full of
        unknown ids holds back no other.
        """
        return self._lookups.fetch(schema_id, origin and (origin.topic, origin.partition))

    async def learn(self, schema_id: int, origin: Origin | None = None) -> None:
        """Wait for `fetch`, unless the registry has just been asked. Raises RegistryUnavailable."""
        if not self._lookups.is_fresh(schema_id):
            await self.fetch(schema_id, origin)

    def encode(self, spec: TopicSpec, event: Event) -> bytes:
        """The value of a record of this topic.

        Raises UnencodableEvent for an event that violates its schema, KeyError for a topic that was not prepared, and
        SchemaIdsLost while the registry does not hold its schema: an outage, for which the event is not to blame.
        """
        head = self._heads.get(spec.name)
        if head is None:
            lost = self._written.by_name[spec.name]
            raise SchemaIdsLost(f"{lost.subject}: {lost.lost}. {REPAIR}")
        buffer = io.BytesIO()
        buffer.write(head)
        try:
            fastavro.schemaless_writer(buffer, own_schema(spec.record.FULL_NAME).schema, event.to_avro(named=True))
        except (TypeError, ValueError, OverflowError, struct.error) as error:
            fields = _misfits(own_schema(spec.record.FULL_NAME).schema, event)
            raise UnencodableEvent(
                f"{spec.record.FULL_NAME} for {spec.name}: {type(error).__name__}{fields and f' in {fields}'}"
            ) from error
        return buffer.getvalue()

    def decode(self, record: type[E], value: bytes | None, origin: Origin) -> E:
        """Decode a value.

        Raises NullValue, BadBytes, UnknownSchema: the record cannot be read. Raises SchemaNotCached: the registry must
        be asked (again) first. Call `learn` with its schema id, or wait for `fetch`, and decode again.
        """
        buffer, schema_id, writer = self._opened(record, value, origin)
        own = own_schema(record.FULL_NAME).schema
        length = buffer.getbuffer().nbytes
        try:
            if length > writer.limits.unscanned:
                writer.limits.check(buffer.getvalue(), _PREFIX.size)
            fields = fastavro.schemaless_reader(buffer, writer.schema, None if writer.schema is own else own)
            if not (rest := length - buffer.tell()):
                return record.from_avro(fields)  # type: ignore[arg-type]
        # fastavro reports malformed input with whatever exception its parsing runs into.
        except Exception as error:
            self._ask_again(schema_id, origin)
            raise BadBytes(origin, f"schema {schema_id} ({writer.name}): {_words(error)}") from error
        self._ask_again(schema_id, origin)
        raise BadBytes(origin, f"schema {schema_id}: {rest} bytes too many")

    def read_back(self, record: type[E], value: bytes) -> E:
        """Decode what this program has encoded. Nobody is asked about its schema, so that no outage concerns it."""
        buffer = io.BytesIO(value)
        buffer.seek(_PREFIX.size)
        return record.from_avro(fastavro.schemaless_reader(buffer, own_schema(record.FULL_NAME).schema, None))  # type: ignore[arg-type]

    def first_fields(
        self, record: type[Any], value: bytes | None, origin: Origin, paths: tuple[str, ...]
    ) -> dict[str, Any]:
        """The beginning of a value as plain Avro data, up to the last of these fields (see `prefix_schema`).

        Many times faster than `decode` if these fields come first; does not validate what follows them. A field that
        the value was written without is missing. Raises what `decode` raises.
        """
        head = value and value[: _PREFIX.size]
        prefix = self._prefixes.get((record, head, paths))
        if prefix is None or value is None:
            _, schema_id, writer = self._opened(record, value, origin)
            try:
                schema = prefix_schema(writer.schema, paths)
                prefix = schema, limits_of(Types(schema), None)
            # As in `decode`.
            except Exception as error:
                raise UnknownSchema(origin, schema_id, f"{type(error).__name__} in its first fields") from error
            self._prefixes[record, _PREFIX.pack(0, schema_id), paths] = prefix
            return self.first_fields(record, value, origin, paths)
        schema, limits = prefix
        buffer = io.BytesIO(value)
        buffer.seek(_PREFIX.size)
        try:
            if len(value) > limits.unscanned:
                limits.check(value, _PREFIX.size)
            return fastavro.schemaless_reader(buffer, schema, None)  # type: ignore[return-value]
        # As in `decode`.
        except Exception as error:
            raise BadBytes(origin, f"{record.FULL_NAME}: {_words(error)} in its first fields") from error

    async def read(self, record: type[E], value: bytes | None, origin: Origin) -> E:
        """As `decode`, but fetches unknown schemas. Raises RegistryUnavailable as well."""
        while True:
            try:
                return self.decode(record, value, origin)
            except SchemaNotCached as missing:
                await self.learn(missing.schema_id, origin)

    def _opened(self, record: type[Any], value: bytes | None, origin: Origin) -> tuple[io.BytesIO, int, WriterSchema]:
        """The Avro data of a value; id and schema of its record."""
        if value is None:
            raise NullValue(origin)
        if len(value) < _PREFIX.size or value[:1] != _MAGIC:
            raise BadBytes(origin, f"{len(value)} bytes that are not in the Confluent wire format")
        schema_id = _PREFIX.unpack_from(value)[1]
        known = self._known.get(schema_id)
        if known is None:
            if (refusal := self._lookups.refusal(schema_id)) is None:
                raise SchemaNotCached(origin, schema_id)
            raise UnknownSchema(origin, schema_id, refusal)
        writer = known.schema
        if writer.name != record.FULL_NAME:
            self._ask_again(schema_id, origin)
            former = self._lookups.former.get((schema_id, record.FULL_NAME))
            if former is None:
                raise UnknownSchema(origin, schema_id, _other_type(writer.name, record.FULL_NAME))
            writer = former
        buffer = StrictBytes(value) if writer.overruns else io.BytesIO(value)
        buffer.seek(_PREFIX.size)
        return buffer, schema_id, writer

    def _ask_again(self, schema_id: int, origin: Origin) -> None:
        """A value does not fit its schema, perhaps since the id stands for another one by now."""
        if not self._lookups.is_fresh(schema_id):
            raise SchemaNotCached(origin, schema_id)

    async def _assure(self) -> None:
        await self._written.assure()

    def _name_schemas(self) -> None:
        self._heads = {
            name: _PREFIX.pack(0, written.schema_id)
            for name, written in self._written.by_name.items()
            if written.lost is None
        }

    def _forget_prefixes(self) -> None:
        self._prefixes.clear()


def spec_of(topic: str, topic_prefix: str) -> TopicSpec:
    """The specification of a topic given with its prefix. Raises KeyError for a topic that is not Headrace's."""
    if not topic.startswith(topic_prefix):
        raise KeyError(f"{topic} does not begin with {topic_prefix}")
    return topic_named(topic[len(topic_prefix) :])
