"""A service's connections to Kafka and the schema registry, made from its settings.

Constructed in `wiring.py`; its `part` goes first among the parts that use Kafka::

    connections = Connections(settings, health, writes=[topics.ATTEMPTS_FINISHED], reads=[topics.WORK_LOCAL_BATCH])
    return Service([connections.part, ...], metrics, health)
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

from headrace_contracts.codec import Codec
from headrace_contracts.errors import RegistryUnavailable, SchemaMissing
from headrace_contracts.record_mac import RecordMac
from headrace_contracts.registry import SchemaRegistry
from headrace_contracts.schema_checks import keep_checking
from headrace_contracts.topics import TopicSpec, dead_letters_of
from headrace_streams.dead_letters import DeadLetters
from headrace_streams.errors import TransientError
from headrace_streams.kafka import KafkaLog
from headrace_streams.ports import Log, Producer
from headrace_streams.publishing import Publisher

from headrace_runtime.health import Health
from headrace_runtime.lifecycle import Part
from headrace_runtime.logging import get_logger
from headrace_runtime.metrics import Metrics
from headrace_runtime.settings import ServiceSettings
from headrace_runtime.waiting import NotReady, wait_until

_REGISTRY: Final = "schema registry"

_log = get_logger("headrace.runtime.connections")


def wall_clock_ms() -> int:
    """The current time in milliseconds since the epoch: the clock that wiring passes to code that stamps events."""
    return time.time_ns() // 1_000_000


class Connections:
    """Everything that a service needs to read and write typed topics.

    Args:
        metrics: For the number of schemas that the registry has lost.
        writes: Topics that the service produces to.
        mac: Signs what it writes to topics that hold signed records.
        reads: Topics that it consumes; `dead_letters` can write to the dead-letter topics of these.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        health: Health,
        metrics: Metrics | None = None,
        *,
        writes: Iterable[TopicSpec] = (),
        mac: RecordMac | None = None,
        reads: Iterable[TopicSpec] = (),
    ) -> None:
        self._health = health
        reads = tuple(reads)
        self._writes = (*writes, *(dead_letters_of(spec) for spec in reads if spec.dead_letters))
        self._topics = {settings.topic_prefix + spec.name: spec for spec in (*self._writes, *reads)}
        self._bootstrap_servers = settings.bootstrap_servers
        self.registry = SchemaRegistry(settings.registry_url, access=settings.registry_access())
        self.codec = Codec(self.registry, settings.topic_prefix)
        queue_kbytes = str(settings.memory.kafka_queue // 1024)
        self._kafka = KafkaLog({"queued.max.messages.kbytes": queue_kbytes, **settings.kafka_config()})
        self.log: Log = self._kafka
        self.producer: Producer = self.log.producer()
        self._mac = mac
        service = settings.service_name
        self._source = f"headrace/{service}/{settings.instance_id}"
        self.publisher = self.another_publisher(self.producer)
        self.dead_letters = DeadLetters(self.publisher, service, settings.topic_prefix, wall_clock_ms)
        self.part = Part("kafka and registry", start=self._start, run=self._check_schemas, stop=self._stop)
        if metrics is not None:
            metrics.for_subsystem("registry").gauge(
                "lost_subjects", "Subjects that cannot be written: the registry no longer holds their schema."
            ).set_function(lambda: self.codec.subjects_lost)

    def another_publisher(self, producer: Producer) -> Publisher:
        """A publisher of the same service that uses another producer."""
        return Publisher(producer, self.codec, self._source, self._mac)

    def patient_log(self, wait_ms: int) -> Log:
        """For consumers and readers whose records may wait this long, in milliseconds: see `KafkaLog.patient`."""
        return self._kafka.patient(wait_ms)

    async def _start(self) -> None:
        await wait_until(
            f"Kafka at {self._bootstrap_servers}", self._topics_exist, not_yet=(TransientError,), health=self._health
        )
        await wait_until(
            f"the schema registry at {self.registry.url}",
            self._schemas_known,
            not_yet=(RegistryUnavailable, SchemaMissing),
            health=self._health,
        )
        self._health.add("schema ids", lambda: self.codec.trouble)

    async def _topics_exist(self) -> None:
        present = await self.log.admin().partition_counts(tuple(self._topics))
        missing = [name for name in self._topics if name not in present]
        if missing:
            sites = dict.fromkeys(self._topics[name].site for name in missing if self._topics[name].site)
            mend = "provision them"
            if sites:
                mend = (
                    f"name {', '.join(sites)} in HEADRACE_SITES of the router and of what creates topics (python -m "
                    "headrace_runtime.provision, headrace up, or the chart's localWorker.sites), and run that"
                )
            raise NotReady(f"topics are missing, {mend}: {', '.join(missing)}")

    async def _schemas_known(self) -> None:
        await self.codec.prepare(self._writes)

    async def _check_schemas(self) -> None:
        """Check for as long as the service runs that ids stand for the schemas they stood for."""
        await keep_checking(self.codec, self._registry_is_away)

    def _registry_is_away(self, reason: str | None) -> None:
        if reason is None:
            _log.info("schema ids have been checked again")
            self._health.note(_REGISTRY, "answers")
            self._health.degrade(_REGISTRY, None)
        else:
            _log.warning("schema ids cannot be checked now; those confirmed before are used", reason=reason)
            self._health.note(_REGISTRY, "does not answer; what it said before is used")
            self._health.degrade(_REGISTRY, f"does not answer, what it said before is used: {reason}")

    async def _stop(self) -> None:
        await self.producer.close()
        await self.registry.close()
