"""Kafka's `Log`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import KafkaException

from headrace_streams.kafka.admin import KafkaAdmin
from headrace_streams.kafka.consumer import KafkaConsumer
from headrace_streams.kafka.errors import error_of
from headrace_streams.kafka.producer import KafkaProducer
from headrace_streams.kafka.properties import (
    DEFAULT_QUEUE_KBYTES,
    Properties,
    consumer_properties,
    spreads_by_number,
)
from headrace_streams.kafka.reader import KafkaReader
from headrace_streams.kafka.reading_client import ReadingClient
from headrace_streams.kafka.topic_members import TopicMembersConsumer
from headrace_streams.ports import Consumer

_QUEUE = "queued.max.messages.kbytes"
_PATIENT_BYTES = 512 * 1024
"""A fetch that brings so much does not wait for more."""

_LOGGER = logging.getLogger("headrace_streams.kafka")


class KafkaLog:
    """Creates clients of one Kafka cluster; create and use them within one event loop.

    Args:
        properties: Any librdkafka properties, with at least bootstrap.servers; each kind of client gets those that
            apply to it. Creating a client raises ValueError if one of them is invalid. librdkafka's own messages
            go to the logger `headrace_streams.kafka`.
    """

    def __init__(self, properties: Properties) -> None:
        if not properties.get("bootstrap.servers"):
            raise ValueError("the Kafka property bootstrap.servers is missing: give at least one host:port")
        self._properties = dict(properties)
        self._admin: KafkaAdmin | None = None
        self._followed_with: ReadingClient | None = None

    def producer(self) -> KafkaProducer:
        with _naming_bad_properties():
            return KafkaProducer(self._properties, _LOGGER)

    def consumer(self, group: str, *, instance_id: str | None = None, from_start: bool = True) -> Consumer:
        admin = self.admin()
        if not spreads_by_number(consumer_properties(self._properties, group, instance_id, from_start=from_start)):
            with _naming_bad_properties():
                return KafkaConsumer(self._properties, _LOGGER, admin, group, instance_id, from_start)

        def member(number: int, count: int, changed: asyncio.Event) -> KafkaConsumer:
            # What one client may hold is divided among them. Each needs an id of its own to be static.
            given = int(self._properties.get(_QUEUE, DEFAULT_QUEUE_KBYTES))
            properties = {**self._properties, _QUEUE: max(1024, given // count) if count > 1 else given}
            name = instance_id if instance_id is None or count == 1 else f"{instance_id}-{number}"
            with _naming_bad_properties():
                return KafkaConsumer(properties, _LOGGER, admin, group, name, from_start, changed)

        return TopicMembersConsumer(group, member)

    def reader(self) -> KafkaReader:
        return KafkaReader(self._reading_client(shared=False), self.admin())

    def follower(self) -> KafkaReader:
        if self._followed_with is None or not self._followed_with.is_used:
            self._followed_with = self._reading_client(shared=True)
        return KafkaReader(self._followed_with, self.admin())

    def _reading_client(self, *, shared: bool) -> ReadingClient:
        with _naming_bad_properties():
            return ReadingClient(self._properties, _LOGGER, shared=shared)

    def patient(self, wait_ms: int) -> KafkaLog:
        """The same cluster for consumers and readers whose records may wait this long, in milliseconds, for others.

        A fetch then brings many records. Otherwise the broker answers with each record as it comes, and each answer
        costs the client as much as a hundred records in one. What the installation sets itself is kept.
        """
        waiting: Properties = {"fetch.min.bytes": _PATIENT_BYTES, "fetch.wait.max.ms": wait_ms}
        patient = KafkaLog({**waiting, **self._properties})
        patient._admin = self.admin()
        return patient

    def admin(self) -> KafkaAdmin:
        if self._admin is None:
            with _naming_bad_properties():
                self._admin = KafkaAdmin(self._properties, _LOGGER)
        return self._admin


@contextmanager
def _naming_bad_properties() -> Iterator[None]:
    try:
        yield
    except KafkaException as exception:
        raise ValueError(f"Kafka properties: {error_of(exception).str()}") from exception
