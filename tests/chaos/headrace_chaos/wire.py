"""Kafka and the schema registry as used by an outsider: a plain Confluent client, fastavro, and HTTP."""

import hashlib
import hmac
import io
import json
import logging
import struct
import time
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import fastavro
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from headrace_chaos.evidence import Seen

_MAGIC = 0
_POLL_SECONDS = 1.0


class Avro:
    """Decodes and encodes values in the Confluent wire format. Times remain numbers."""

    def __init__(self, registry_url: str) -> None:
        self._url = registry_url
        self._by_id: dict[int, Any] = {}
        self._latest: dict[str, tuple[int, Any]] = {}

    def decode(self, value: bytes) -> dict[str, Any]:
        """Raises ValueError for bytes in another format."""
        magic, schema_id = struct.unpack_from(">bI", value)
        if magic != _MAGIC:
            raise ValueError(f"not the Confluent wire format: {value[:5]!r}")
        if schema_id not in self._by_id:
            self._by_id[schema_id] = _parse(self._get(f"/schemas/ids/{schema_id}")["schema"])
        decoded: Any = fastavro.schemaless_reader(io.BytesIO(value[5:]), self._by_id[schema_id], None)
        return dict(decoded)

    def learn(self, topics: Iterable[str]) -> None:
        """Load the newest schemas of these topics, for `encode`."""
        for topic in topics:
            newest = self._get(f"/subjects/{topic}-value/versions/latest")
            self._latest[topic] = int(newest["id"]), _parse(newest["schema"])

    def encode(self, topic: str, event: Mapping[str, Any]) -> bytes:
        """Fields missing in the event get their defaults."""
        schema_id, schema = self._latest[topic]
        buffer = io.BytesIO(struct.pack(">bI", _MAGIC, schema_id))
        buffer.seek(0, io.SEEK_END)
        fastavro.schemaless_writer(buffer, schema, dict(event))
        return buffer.getvalue()

    def subjects(self) -> frozenset[str]:
        """All subjects of the registry."""
        return frozenset(self._get("/subjects"))

    def _get(self, path: str) -> Any:
        with urllib.request.urlopen(self._url + path, timeout=10) as answer:
            return json.load(answer)


def _parse(text: str) -> Any:
    return fastavro.parse_schema(_without_logical_types(json.loads(text)))


def _without_logical_types(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {name: _without_logical_types(part) for name, part in schema.items() if name != "logicalType"}
    return [_without_logical_types(part) for part in schema] if isinstance(schema, list) else schema


def signed(signing_key: str, topic: str, key: bytes, value: bytes) -> str:
    """The header `headrace_signature` of a record, as docs/clients.md says it."""
    key_id, code = signing_key.split(":")
    parts = (topic.encode(), key, value)
    framed = b"".join(len(part).to_bytes(8, "big", signed=True) + part for part in parts)
    return f"v1 {key_id} {hmac.new(code.encode(), framed, hashlib.sha256).hexdigest()}"


class Reader:
    """Reads topics below a prefix, in no consumer group."""

    def __init__(self, kafka: Mapping[str, str], prefix: str, avro: Avro) -> None:
        self._prefix = prefix
        self._avro = avro
        self._kafka = Consumer(
            {
                **kafka,
                "group.id": "chaos-checker",
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "reconnect.backoff.max.ms": 500,
                "logger": quiet_logger(),
            }
        )

    def close(self) -> None:
        self._kafka.close()

    def topics(self) -> list[str]:
        """All topics below the prefix whose schema the registry has, without the prefix."""
        found = self._kafka.list_topics(timeout=30).topics
        typed = self._avro.subjects()
        # Others belong to no contract, such as the changelogs of live windows.
        return sorted(
            name.removeprefix(self._prefix)
            for name in found
            if name.startswith(self._prefix) and f"{name}-value" in typed
        )

    def ends(self, topics: Iterable[str]) -> dict[tuple[str, int], int]:
        """The end of each partition. Raises KafkaException while Kafka is down."""
        found = self._kafka.list_topics(timeout=30).topics
        return {
            (topic, partition): self._kafka.get_watermark_offsets(TopicPartition(self._prefix + topic, partition), 30)[
                1
            ]
            for topic in topics
            for partition in found[self._prefix + topic].partitions
        }

    def read(self, starts: Mapping[tuple[str, int], int], ends: Mapping[tuple[str, int], int]) -> Iterator[Seen]:
        """The records from starts (0 if none is given) to ends.

        Raises TimeoutError when they do not arrive, KafkaException.
        """
        open_ends = {where: end for where, end in ends.items() if end > starts.get(where, 0)}
        self._kafka.assign([TopicPartition(self._prefix + t, p, starts.get((t, p), 0)) for t, p in open_ends])
        quiet_since = time.monotonic()
        while open_ends:
            messages = self._kafka.consume(1000, 0.2)
            if messages:
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since > 30:
                raise TimeoutError(f"no more records in {sorted(open_ends)}")
            for message in messages:
                error = message.error()
                if error is not None:
                    if error.code() == KafkaError._ALL_BROKERS_DOWN or error.retriable():
                        continue
                    raise KafkaException(error)
                seen = self._seen(message)
                where = (seen.topic, seen.partition)
                if where not in open_ends:
                    continue
                yield seen
                if seen.offset + 1 >= open_ends[where]:
                    del open_ends[where]
        self._kafka.unassign()

    def _seen(self, message: Any) -> Seen:
        value = message.value()
        headers = dict(message.headers() or [])
        return Seen(
            topic=message.topic().removeprefix(self._prefix),
            partition=message.partition(),
            offset=message.offset(),
            at_ms=message.timestamp()[1],
            key=message.key(),
            event_id=(headers.get("ce_id") or b"").decode(),
            value=None if value is None else self._avro.decode(value),
        )


def quiet_logger() -> logging.Logger:
    """librdkafka logs a lot while brokers are down; here they are down on purpose."""
    logger = logging.getLogger("headrace_chaos.librdkafka")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    return logger
