"""Records over librdkafka's messages: nothing is copied from a message before it is read."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from operator import methodcaller
from typing import Any, Final, cast

from confluent_kafka import Message

from headrace_streams.records import UNREADABLE_NAME, Headers, Record, TopicPartition

__all__ = ["Chunk", "KafkaRecord", "chunks_of", "place_of", "records_of"]


class KafkaRecord(Record):
    """A record over a message of librdkafka.

    Copying seven fields costs more than everything else between the broker and the handler, and most handlers
    read two or three of them.
    """

    __slots__ = ("_message",)
    _message: Message

    def __init__(self, message: Message) -> None:
        _keep_message(self, message)

    @property
    def topic(self) -> str:
        return self._message.topic() or ""

    @property
    def partition(self) -> int:
        return cast(int, self._message.partition())

    @property
    def offset(self) -> int:
        return cast(int, self._message.offset())

    @property
    def timestamp_ms(self) -> int:
        return self._message.timestamp()[1]

    @property
    def key(self) -> bytes | None:
        return self._message.key()

    @property
    def value(self) -> bytes | None:
        return self._message.value()

    @property
    def headers(self) -> Headers:
        try:
            found = _headers_of(self._message)
        except (SystemError, UnicodeDecodeError):
            found = _readable(_headers_of(self._message))
            # The message keeps what it once returned, and would return it without a complaint from now on.
            self._message.set_headers(found)
        return cast(Headers, tuple(found)) if found else ()


# confluent-kafka's `Message.headers` returns a list and leaves an exception set if the name of a header is not UTF-8.
# The interpreter does not look for one where Python code calls a C method, and raises it at some later call, anywhere.
# It does look where C code calls one, as this does; it then raises SystemError, and the next call returns the list.
_headers_of: Final[Callable[[Message], list[Any] | None]] = methodcaller("headers")

# A frozen dataclass sets its attributes by a detour that would double the cost of a record.
_keep_message: Final[Any] = KafkaRecord.__dict__["_message"].__set__


@dataclass(slots=True)
class Chunk:
    """Consecutive records of one partition that were fetched together.

    Attributes:
        size: Bytes of their values.
    """

    partition: TopicPartition
    records: Sequence[Record]
    size: int

    def split(self, count: int) -> Chunk:
        """Remove and return the first `count` records."""
        first = Chunk(
            self.partition, self.records[:count], sum(len(each.value or b"") for each in self.records[:count])
        )
        self.records, self.size = self.records[count:], self.size - first.size
        return first


def place_of(message: Message) -> TopicPartition:
    """Topic and partition of a message or of an error event."""
    topic, partition = message.topic(), message.partition()
    return TopicPartition(topic or "", -1 if partition is None else partition)


def chunks_of(messages: Sequence[Message]) -> list[Chunk]:
    """The messages, none of which is an error, as records grouped by partition."""
    if not messages:
        return []
    # No loop in Python: this runs for every record.
    topics, partitions = list(map(Message.topic, messages)), list(map(Message.partition, messages))
    if partitions.count(partitions[0]) == len(messages) and topics.count(topics[0]) == len(messages):
        return [_chunk(messages)]
    chunks = []
    begin = 0
    for _, alike in groupby(zip(topics, partitions, strict=True)):
        end = begin + sum(1 for _ in alike)
        chunks.append(_chunk(messages[begin:end]))
        begin = end
    return chunks


def records_of(chunks: Sequence[Chunk]) -> Sequence[Record]:
    """The records of the chunks, in order."""
    return chunks[0].records if len(chunks) == 1 else list(chain.from_iterable(chunk.records for chunk in chunks))


def _readable(headers: list[Any] | None) -> list[Any]:
    """The headers of a message, some of whose names are missing.

    In these tuples the first item is no object at all, and whoever reads it ends the process. The garbage collector's
    view of a tuple leaves such an item out.
    """
    readable = []
    for pair in headers or ():
        # In no particular order, but only a name is a str.
        items = gc.get_referents(pair)
        names, values = [item for item in items if isinstance(item, str)], [i for i in items if not isinstance(i, str)]
        readable.append((names[0] if names else UNREADABLE_NAME, values[0]))
    return readable


def _chunk(messages: Sequence[Message]) -> Chunk:
    return Chunk(place_of(messages[0]), list(map(KafkaRecord, messages)), sum(map(len, messages)))
