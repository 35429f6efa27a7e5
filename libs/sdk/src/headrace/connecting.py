"""A connection to the topics: the log, and the codec with the registry's schemas."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from headrace_contracts.codec import Codec
from headrace_contracts.codec import Registry as CodecRegistry
from headrace_contracts.registry import SchemaRegistry
from headrace_contracts.topics import TOPICS, TopicSpec
from headrace_streams.kafka import KafkaLog
from headrace_streams.ports import Log

from headrace.addresses import Addresses, locate
from headrace.errors import HeadraceError


class ClosableRegistry(CodecRegistry, Protocol):
    """The codec's registry, with a way to close it."""

    async def close(self) -> None: ...


class TopicUnknown(HeadraceError):
    """Choose one of the topics that the message lists."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Kafka (or its in-memory twin) with the codec for its records. Close it, or use it as a context manager."""

    log: Log
    codec: Codec
    registry: ClosableRegistry

    @classmethod
    def over(cls, log: Log, registry: ClosableRegistry, *, topic_prefix: str = "headrace.") -> Self:
        """A cluster made of its parts, for tests on the in-memory twin."""
        return cls(log, Codec(registry, topic_prefix), registry)

    @classmethod
    def at(cls, addresses: Addresses | None = None) -> Self:
        """The cluster at these addresses, by default those that `locate` finds. Connects on first use.

        Raises Misconfigured when the address of Kafka or the registry is unknown.
        """
        addresses = addresses or locate()
        properties = {
            **addresses.kafka_properties,
            "bootstrap.servers": addresses.require("bootstrap_servers"),
            "client.id": f"headrace-sdk@{socket.gethostname()}",
        }
        registry = SchemaRegistry(addresses.require("registry_url"))
        return cls.over(KafkaLog(properties), registry, topic_prefix=addresses.topic_prefix)

    async def close(self) -> None:
        """Close the registry client; consumers and producers are closed separately."""
        await self.registry.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def topic(self, spec: TopicSpec) -> str:
        """The topic's full name."""
        return self.codec.topic_prefix + spec.name


def spec_named(topic: str, topic_prefix: str, specs: Iterable[TopicSpec] = tuple(TOPICS.values())) -> TopicSpec:
    """The topic of that name, with or without the installation's prefix. Raises TopicUnknown."""
    by_name = {spec.name: spec for spec in specs}
    for name in (topic, topic.removeprefix(topic_prefix)):
        if name in by_name:
            return by_name[name]
    raise TopicUnknown(f"Headrace has no topic {topic!r}; the topics are {', '.join(sorted(by_name))}")
