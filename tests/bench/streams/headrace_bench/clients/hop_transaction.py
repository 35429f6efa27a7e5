"""The hop in Kafka transactions: state, reply and consumed offsets of a batch, all or nothing."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from headrace_contracts.errors import Origin
from headrace_contracts.events import TaskCancelled
from headrace_contracts.topics import TASKS_CANCELLED, TASKS_JOURNAL
from headrace_streams.ports import Producer as ProducerPort
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.records import ProducerRecord, RecordMetadata

from headrace_bench.clients.hop import (
    SOURCE,
    TENANT,
    decide,
    entry_of,
    prepared_codec,
    reply_publication,
    say_ready,
    when_input_ends,
)

_POLL_SECONDS: Final = 0.2
_TRANSACTION_SECONDS: Final = 30.0


class _Unused(ProducerPort):
    """The publisher only encodes here."""

    def send(self, record: ProducerRecord) -> asyncio.Future[RecordMetadata]:
        raise AssertionError("not used")

    async def flush(self) -> None:
        raise AssertionError("not used")

    async def close(self) -> None:
        raise AssertionError("not used")


def main(request: Mapping[str, Any]) -> None:
    """Serve until standard input ends."""
    stopped = threading.Event()
    when_input_ends(stopped.set)
    codec = asyncio.run(prepared_codec(request["prefix"]))
    publisher = Publisher(_Unused(), codec, SOURCE)
    topic = codec.topic_prefix + TASKS_CANCELLED.name
    cancellations: dict[str, int] = {}
    producer = Producer(
        {
            "bootstrap.servers": request["bootstrap"],
            "transactional.id": f"{request['prefix']}hop",
            "linger.ms": 0,
            **request["properties"],
        }
    )
    consumer = Consumer(
        {
            "bootstrap.servers": request["bootstrap"],
            "group.id": f"{request['prefix']}hop",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
        }
    )
    producer.init_transactions(_TRANSACTION_SECONDS)

    def produce(record: ProducerRecord) -> None:
        assert record.partition is not None
        producer.produce(record.topic, record.value, record.key, record.partition, headers=list(record.headers))

    def handle(message: Message) -> None:
        offset = message.offset()
        assert offset is not None
        cancellation = codec.decode(TaskCancelled, message.value(), Origin(topic, 0, offset))
        now_ms = time.time_ns() // 1_000_000
        decision = decide(cancellations.get(cancellation.task_id, 0), cancellation, now_ms)
        entry = entry_of(decision, offset, now_ms)
        cancellations[cancellation.task_id] = decision.cancellations
        kept = Publication(
            spec=TASKS_JOURNAL,
            event=entry,
            event_id=f"state/{offset}",
            key=cancellation.task_id.encode(),
            tenant=TENANT,
            time_ms=now_ms,
            partition=0,
            subject=cancellation.task_id,
        )
        produce(publisher.record_of(kept))
        produce(publisher.record_of(reply_publication(decision.reply, offset)))

    consumer.subscribe([topic], on_assign=lambda *_: say_ready())
    while not stopped.is_set():
        first = consumer.poll(_POLL_SECONDS)
        if first is None:
            continue
        messages = [first, *consumer.consume(request["batch"] - 1, 0)]
        producer.begin_transaction()
        for message in messages:
            error = message.error()
            if error is not None:
                raise KafkaException(error)
            handle(message)
        last = messages[-1].offset()
        assert last is not None
        producer.send_offsets_to_transaction(
            [TopicPartition(topic, 0, last + 1)], consumer.consumer_group_metadata(), _TRANSACTION_SECONDS
        )
        _commit(producer)
    consumer.close()


def _commit(producer: Producer) -> None:
    while True:
        try:
            producer.commit_transaction(_TRANSACTION_SECONDS)
        except KafkaException as exception:
            error: KafkaError = exception.args[0]
            if not error.retriable():
                raise
        else:
            return


if __name__ == "__main__":
    main(json.loads(sys.stdin.readline()))
