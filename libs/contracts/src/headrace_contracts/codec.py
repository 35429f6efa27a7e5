"""Events to bytes and back: Avro in the Confluent wire format (a zero byte, the schema id, the value)."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterable
from typing import Any, Protocol, TypeVar

import fastavro
from fastavro.read import SchemaResolutionError
from fastavro.types import Schema
from fastavro.validation import ValidationError, validate

from headrace_contracts.errors import (
    BadBytes,
    NullValue,
    Origin,
    SchemaNotCached,
    UnencodableEvent,
    UnknownSchema,
    UnusableSchema,
)
from headrace_contracts.events._schemas import SCHEMAS
from headrace_contracts.prefix import prefix_schema
from headrace_contracts.topics import TOPICS, Event, TopicSpec
from headrace_contracts.writer_schemas import StrictBytes, WriterSchema, without_logical_types, writer_schema

E = TypeVar("E", bound=Event)

_MAGIC = b"\x00"
_PREFIX = struct.Struct(">bI")
_LARGEST_SCHEMA_ID = 2**31 - 1
_MAX_REFUSED = 10_000
"""Number of useless schema ids in memory: anybody may write any id."""


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


def _parse(text: str) -> Schema:
    return fastavro.parse_schema(without_logical_types(json.loads(text)))


class Registry(Protocol):
    """The part of a schema registry that the codec needs."""

    async def register(self, subject: str, schema: str) -> int: ...

    async def id_of(self, subject: str, schema: str) -> int: ...

    async def schema(self, schema_id: int) -> str | None:
        """An Avro schema that is complete in itself; None for an unknown id. Raises UnusableSchema for any other."""
        ...


class Codec:
    """Encodes and decodes events with schema ids from a registry; encode and decode perform no I/O.

    Args:
        registry: Source of the schema ids.
        topic_prefix: Prefix of all topics and subjects of the installation.
    """

    def __init__(self, registry: Registry, topic_prefix: str = "headrace.") -> None:
        self._registry = registry
        self.topic_prefix = topic_prefix
        self._writer_ids: dict[str, bytes] = {}
        self._own: dict[str, Schema] = {}
        self._writers: dict[int, WriterSchema] = {}
        # Why values with these ids can never be read, oldest first.
        self._refused: dict[int, str] = {}
        # By class: the bytes that name the schema, and the fields.
        self._prefixes: dict[tuple[type[Any], bytes | None, tuple[str, ...]], Schema] = {}

    async def prepare(self, specs: Iterable[TopicSpec], *, register: bool = False) -> None:
        """Look up the ids of the schemas that will be written to these topics.

        With `register`, add missing ones. Raises SchemaMissing, SchemaIncompatible, RegistryUnavailable.
        """
        for spec in specs:
            text = schema_text(spec.record)
            subject = self.topic_prefix + spec.subject
            if register:
                schema_id = await self._registry.register(subject, text)
            else:
                schema_id = await self._registry.id_of(subject, text)
            self._writer_ids[spec.name] = _PREFIX.pack(0, schema_id)
            self._writers[schema_id] = WriterSchema(
                self._own_schema(spec.record), spec.record.FULL_NAME, overruns=False
            )

    async def learn(self, schema_id: int) -> None:
        """Fetch the schema with this id, once. Raises RegistryUnavailable.

        Whatever else the registry answers, `decode` then raises UnknownSchema if values with this id cannot be read.
        """
        if schema_id in self._writers or schema_id in self._refused:
            return
        try:
            text = await self._registry.schema(schema_id) if schema_id <= _LARGEST_SCHEMA_ID else None
            if text is None:
                raise UnusableSchema("the registry does not know it")
            self._writers[schema_id] = writer_schema(text)
        except UnusableSchema as error:
            if len(self._refused) >= _MAX_REFUSED:
                del self._refused[next(iter(self._refused))]
            self._refused[schema_id] = str(error)

    def encode(self, spec: TopicSpec, event: Event) -> bytes:
        """The value of a record of this topic.

        Raises UnencodableEvent for an event that violates its schema, KeyError for a topic that was not prepared.
        """
        buffer = io.BytesIO()
        buffer.write(self._writer_ids[spec.name])
        try:
            fastavro.schemaless_writer(buffer, self._own_schema(spec.record), event.to_avro(named=True))
        except (TypeError, ValueError, OverflowError, struct.error) as error:
            fields = _misfits(self._own_schema(spec.record), event)
            raise UnencodableEvent(
                f"{spec.record.FULL_NAME} for {spec.name}: {type(error).__name__}{fields and f' in {fields}'}"
            ) from error
        return buffer.getvalue()

    def decode(self, record: type[E], value: bytes | None, origin: Origin) -> E:
        """Decode a value.

        Raises NullValue, BadBytes, UnknownSchema: the record can never be read. Raises SchemaNotCached: call `learn`
        with its schema id and decode again.
        """
        buffer, schema_id, writer, name = self._opened(record, value, origin)
        own = self._own_schema(record)
        try:
            data = fastavro.schemaless_reader(buffer, writer, None if writer is own else own)
            if rest := len(buffer.getbuffer()) - buffer.tell():
                raise BadBytes(origin, f"schema {schema_id}: {rest} bytes too many")
            return record.from_avro(data)  # type: ignore[arg-type]
        except BadBytes:
            raise
        # fastavro reports malformed input with whatever exception its parsing runs into.
        except Exception as error:
            # Its message may quote the value, unless it is about schemas.
            words = f": {error}" if isinstance(error, SchemaResolutionError) else ""
            raise BadBytes(origin, f"schema {schema_id} ({name}): {type(error).__name__}{words}") from error

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
            _, schema_id, writer, _ = self._opened(record, value, origin)
            try:
                prefix = self._prefixes[record, _PREFIX.pack(0, schema_id), paths] = prefix_schema(writer, paths)
            # As in `decode`.
            except Exception as error:
                raise UnknownSchema(origin, schema_id, f"{type(error).__name__} in its first fields") from error
            return self.first_fields(record, value, origin, paths)
        buffer = io.BytesIO(value)
        buffer.seek(_PREFIX.size)
        try:
            return fastavro.schemaless_reader(buffer, prefix, None)  # type: ignore[return-value]
        # As in `decode`.
        except Exception as error:
            raise BadBytes(origin, f"{record.FULL_NAME}: {type(error).__name__} in its first fields") from error

    async def read(self, record: type[E], value: bytes | None, origin: Origin) -> E:
        """As `decode`, but fetches unknown schemas. Raises RegistryUnavailable as well."""
        try:
            return self.decode(record, value, origin)
        except SchemaNotCached as missing:
            await self.learn(missing.schema_id)
            return self.decode(record, value, origin)

    def _opened(self, record: type[Any], value: bytes | None, origin: Origin) -> tuple[io.BytesIO, int, Schema, str]:
        """The Avro data of a value; id, schema and name of its record."""
        if value is None:
            raise NullValue(origin)
        if len(value) < _PREFIX.size or value[:1] != _MAGIC:
            raise BadBytes(origin, f"{len(value)} bytes that are not in the Confluent wire format")
        schema_id = _PREFIX.unpack_from(value)[1]
        if (refusal := self._refused.get(schema_id)) is not None:
            raise UnknownSchema(origin, schema_id, refusal)
        try:
            writer = self._writers[schema_id]
        except KeyError:
            raise SchemaNotCached(origin, schema_id) from None
        if (name := writer.name) != record.FULL_NAME:
            raise UnknownSchema(origin, schema_id, f"holds {name or 'no record'}, expected {record.FULL_NAME}")
        buffer = StrictBytes(value) if writer.overruns else io.BytesIO(value)
        buffer.seek(_PREFIX.size)
        return buffer, schema_id, writer.schema, name

    def _own_schema(self, record: type[Any]) -> Schema:
        schema = self._own.get(record.FULL_NAME)
        if schema is None:
            schema = self._own[record.FULL_NAME] = _parse(SCHEMAS[record.FULL_NAME])
        return schema


def spec_of(topic: str, topic_prefix: str) -> TopicSpec:
    """The specification of a topic given with its prefix. Raises KeyError for a topic that is not Headrace's."""
    if not topic.startswith(topic_prefix):
        raise KeyError(f"{topic} does not begin with {topic_prefix}")
    return TOPICS[topic[len(topic_prefix) :]]
