"""A connection to the topics: the log, and the codec with the registry's schemas."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Protocol, Self

from headrace_contracts.codec import Codec
from headrace_contracts.codec import Registry as CodecRegistry
from headrace_contracts.errors import RegistryAccessInvalid
from headrace_contracts.producer_signature import SigningKey, SigningKeyInvalid
from headrace_contracts.registry import SchemaRegistry
from headrace_contracts.topics import TOPICS, TopicSpec, topic_named, without_site
from headrace_contracts.users import CONTENT_READER
from headrace_streams.kafka import KafkaLog
from headrace_streams.ports import Log

from headrace.addresses import VARIABLES, Addresses, locate
from headrace.errors import HeadraceError, Misconfigured


class ClosableRegistry(CodecRegistry, Protocol):
    """The codec's registry, with a way to close it."""

    async def close(self) -> None: ...


class TopicUnknown(HeadraceError):
    """Choose one of the topics that the message lists."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Kafka (or its in-memory twin) with the codec for its records. Close it, or use it as a context manager.

    Attributes:
        signing_key: Signs what clients write to it.
        signs_for: The only tenant that it signs for, where that is known.
    """

    log: Log
    codec: Codec
    registry: ClosableRegistry
    signing_key: SigningKey | None = None
    signs_for: str | None = None

    @classmethod
    def over(cls, log: Log, registry: ClosableRegistry, *, topic_prefix: str = "headrace.") -> Self:
        """A cluster made of its parts, for tests on the in-memory twin."""
        return cls(log, Codec(registry, topic_prefix), registry)

    @classmethod
    def at(cls, addresses: Addresses | None = None, *, user: str = CONTENT_READER) -> Self:
        """The cluster at these addresses, by default those that `locate` finds. Connects on first use.

        On a secure stack, as one of its users (`headrace_contracts.users`), unless variables say how to log in.

        Raises Misconfigured when the address of Kafka or the registry is unknown, its login cannot work, or the signing
        key is none.
        """
        addresses = (addresses or locate()).as_user(user)
        properties = {
            **addresses.kafka_properties,
            "bootstrap.servers": addresses.require("bootstrap_servers"),
            "client.id": f"headrace-sdk@{socket.gethostname()}",
        }
        registry = registry_at(addresses)
        return replace(
            cls.over(KafkaLog(properties), registry, topic_prefix=addresses.topic_prefix),
            signing_key=_signing_key(addresses),
            signs_for=addresses.signs_for,
        )

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


def _signing_key(addresses: Addresses) -> SigningKey | None:
    try:
        return SigningKey.parse(addresses.signing_key) if addresses.signing_key else None
    except SigningKeyInvalid as error:
        raise Misconfigured(f"{VARIABLES['signing_key']} does not hold a signing key: {error}") from error


def registry_at(addresses: Addresses, *, timeout_seconds: float = 10.0) -> SchemaRegistry:
    """The schema registry, with its login. Raises Misconfigured if its address is unknown, or the login cannot work."""
    url = addresses.require("registry_url")
    try:
        return SchemaRegistry(url, timeout_seconds=timeout_seconds, access=addresses.registry_access)
    except RegistryAccessInvalid as error:
        raise Misconfigured(str(error)) from error


def spec_named(topic: str, topic_prefix: str, specs: Iterable[TopicSpec] = tuple(TOPICS.values())) -> TopicSpec:
    """The topic of that name, with or without the installation's prefix. Raises TopicUnknown."""
    by_name = {spec.name: spec for spec in specs}
    for name in (topic, topic.removeprefix(topic_prefix)):
        if name in by_name:
            return by_name[name]
        with contextlib.suppress(KeyError):
            if without_site(found := topic_named(name)).name in by_name:
                return found
    raise TopicUnknown(f"Headrace has no topic {topic!r}; the topics are {', '.join(sorted(by_name))}")
