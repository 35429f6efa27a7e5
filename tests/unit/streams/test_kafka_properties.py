"""Which librdkafka property reaches which client, and which cannot be had."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from headrace_streams.kafka import KafkaLog
from headrace_streams.kafka.properties import (
    Properties,
    admin_properties,
    consumer_properties,
    is_incremental,
    producer_properties,
    reader_properties,
)

NO_BROKER = {"bootstrap.servers": "127.0.0.1:1"}
GIVEN: Properties = {
    **NO_BROKER,
    "security.protocol": "SASL_SSL",
    "sasl.mechanism": "SCRAM-SHA-512",
    "compression.type": "lz4",
    "linger.ms": 5,
    "session.timeout.ms": 45_000,
    "fetch.wait.max.ms": 7,
}


def _consumer(properties: Properties, instance_id: str | None = None) -> dict[str, str | int | bool]:
    return consumer_properties(properties, "g", instance_id, from_start=True)


def test_connections_are_the_same_for_all_clients() -> None:
    for made in (producer_properties(GIVEN), _consumer(GIVEN), reader_properties(GIVEN), admin_properties(GIVEN)):
        assert made["bootstrap.servers"] == "127.0.0.1:1"
        assert made["security.protocol"] == "SASL_SSL"
        assert made["sasl.mechanism"] == "SCRAM-SHA-512"


def test_each_client_gets_what_concerns_it() -> None:
    producer, consumer, reader, admin = (
        producer_properties(GIVEN), _consumer(GIVEN), reader_properties(GIVEN), admin_properties(GIVEN),
    )  # fmt: skip
    assert (producer["compression.type"], producer["linger.ms"]) == ("lz4", 5)
    assert {"session.timeout.ms", "fetch.wait.max.ms"}.isdisjoint(producer)
    assert (consumer["session.timeout.ms"], consumer["fetch.wait.max.ms"]) == (45_000, 7)
    assert {"compression.type", "linger.ms"}.isdisjoint(consumer)
    assert reader["fetch.wait.max.ms"] == 7
    assert {"session.timeout.ms", "compression.type"}.isdisjoint(reader)
    assert {"session.timeout.ms", "compression.type", "fetch.wait.max.ms"}.isdisjoint(admin)


def test_promises_hold_by_default() -> None:
    producer = producer_properties(NO_BROKER)
    assert (producer["enable.idempotence"], producer["acks"], producer["linger.ms"]) == (True, "all", 0)
    assert producer["partitioner"] == "murmur2_random"
    consumer = _consumer(NO_BROKER)
    assert (consumer["enable.auto.commit"], consumer["enable.auto.offset.store"]) == (False, False)
    assert (consumer["group.id"], consumer["auto.offset.reset"]) == ("g", "earliest")
    assert consumer["partition.assignment.strategy"] == "range"
    assert "group.instance.id" not in consumer
    assert _consumer(NO_BROKER, "pod-1")["group.instance.id"] == "pod-1"
    assert consumer_properties(NO_BROKER, "g", None, from_start=False)["auto.offset.reset"] == "latest"
    assert reader_properties(NO_BROKER)["auto.offset.reset"] == "error"


def test_the_new_group_protocol_knows_no_classic_settings() -> None:
    settings = _consumer({**NO_BROKER, "group.protocol": "consumer"})
    assert {"session.timeout.ms", "heartbeat.interval.ms", "partition.assignment.strategy"}.isdisjoint(settings)
    assert is_incremental(settings)
    assert is_incremental(_consumer({**NO_BROKER, "partition.assignment.strategy": "cooperative-sticky"}))
    assert not is_incremental(_consumer(NO_BROKER))


@pytest.mark.parametrize(
    ("name", "value"), [("enable.idempotence", False), ("acks", "1"), ("partitioner", "consistent_random")]
)
async def test_what_would_break_a_producers_promises_is_refused(name: str, value: str | bool) -> None:
    with pytest.raises(ValueError, match=name):
        KafkaLog({**NO_BROKER, name: value}).producer()


@pytest.mark.parametrize("name", ["enable.auto.commit", "enable.auto.offset.store"])
async def test_what_would_break_a_consumers_promises_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        KafkaLog({**NO_BROKER, name: True}).consumer("g")


def test_saying_what_holds_anyway_is_no_fault() -> None:
    assert producer_properties({**NO_BROKER, "enable.idempotence": "true", "acks": "all"})["acks"] == "all"


async def test_a_property_that_does_not_exist_is_named() -> None:
    log = KafkaLog({**NO_BROKER, "no.such.property": 1})
    for make in (log.producer, log.reader, log.admin, lambda: log.consumer("g")):
        with pytest.raises(ValueError, match=r"no\.such\.property"):
            make()


async def test_a_value_that_cannot_be_is_named() -> None:
    with pytest.raises(ValueError, match=r"socket\.timeout\.ms"):
        KafkaLog({**NO_BROKER, "socket.timeout.ms": "soon"}).producer()


def test_without_servers_there_is_no_log() -> None:
    with pytest.raises(ValueError, match=r"bootstrap\.servers"):
        KafkaLog({"security.protocol": "SSL"})


@pytest.mark.parametrize("name", ["socket.timeout.ms", "topic.metadata.refresh.interval.ms"])
@pytest.mark.parametrize("made", [producer_properties, _consumer, reader_properties, admin_properties])
def test_no_client_waits_long_for_a_broker_that_hangs(
    made: Callable[[Properties], dict[str, str | int | bool]], name: str
) -> None:
    assert int(made(NO_BROKER)[name]) <= 10_000
    assert made({**NO_BROKER, name: 30_000})[name] == 30_000


async def test_a_patient_log_lets_records_gather_unless_the_installation_says_otherwise() -> None:
    patient = KafkaLog(NO_BROKER).patient(250)
    for made in (
        reader_properties(patient._properties),
        consumer_properties(patient._properties, "g", None, from_start=True),
    ):
        assert made["fetch.wait.max.ms"] == 250
        assert made["fetch.min.bytes"] == 512 * 1024
    own = KafkaLog({**NO_BROKER, "fetch.wait.max.ms": 7})
    assert reader_properties(own.patient(250)._properties)["fetch.wait.max.ms"] == 7
    assert own.patient(250).admin() is own.admin()
