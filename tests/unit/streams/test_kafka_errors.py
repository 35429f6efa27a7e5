"""Kafka's errors, by what they ask for."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError
from headrace_streams.errors import (
    AppendUncertain,
    LeaveGroup,
    OffsetOutOfRange,
    PartitionsLost,
    RecordRefused,
    RecordTooLarge,
    StreamsError,
    TopicMissing,
    TransientError,
)
from headrace_streams.kafka import errors


def _error(code: int, *, fatal: bool = False, retriable: bool = False) -> KafkaError:
    return KafkaError(code, "because", fatal, retriable)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (KafkaError.MSG_SIZE_TOO_LARGE, RecordTooLarge),
        (KafkaError.RECORD_LIST_TOO_LARGE, RecordTooLarge),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, RecordRefused),
        # All of these may have been met by the second attempt, after the first one has appended the record.
        (KafkaError._UNKNOWN_TOPIC, AppendUncertain),
        (KafkaError._UNKNOWN_PARTITION, AppendUncertain),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, AppendUncertain),
        (KafkaError._PURGE_QUEUE, AppendUncertain),
        (KafkaError._TIMED_OUT_QUEUE, AppendUncertain),
        (KafkaError.NOT_ENOUGH_REPLICAS, AppendUncertain),
        (KafkaError.NOT_LEADER_FOR_PARTITION, AppendUncertain),
        (KafkaError.LEADER_NOT_AVAILABLE, AppendUncertain),
        (KafkaError.KAFKA_STORAGE_ERROR, AppendUncertain),
        (KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND, AppendUncertain),
        (KafkaError._MSG_TIMED_OUT, AppendUncertain),
        (KafkaError._PURGE_INFLIGHT, AppendUncertain),
        (KafkaError._TRANSPORT, AppendUncertain),
        (KafkaError._FATAL, AppendUncertain),
        (KafkaError.UNKNOWN, AppendUncertain),
    ],
)
def test_appending(code: int, expected: type[StreamsError]) -> None:
    failure = errors.appending(_error(code), "topic-x")
    assert type(failure) is expected
    assert "topic-x: because (" in str(failure)


def test_what_was_not_even_queued_is_not_uncertain() -> None:
    assert type(errors.queueing(_error(KafkaError._FATAL), "t")) is TransientError
    assert type(errors.queueing(_error(KafkaError._UNKNOWN_PARTITION), "t")) is TransientError
    assert type(errors.queueing(_error(KafkaError._QUEUE_FULL), "t")) is TransientError
    assert type(errors.queueing(_error(KafkaError.MSG_SIZE_TOO_LARGE), "t")) is RecordTooLarge


@pytest.mark.parametrize(
    ("code", "missing"),
    [
        (KafkaError.UNKNOWN_TOPIC_OR_PART, True),
        (KafkaError._UNKNOWN_TOPIC, True),
        (KafkaError._UNKNOWN_PARTITION, True),
        (KafkaError.NOT_LEADER_FOR_PARTITION, False),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, False),
        (KafkaError.TOPIC_EXCEPTION, False),
    ],
)
def test_only_what_may_be_behind_the_cluster_is_asked_for_again(code: int, missing: bool) -> None:
    assert errors.is_missing(_error(code)) is missing


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (KafkaError.ILLEGAL_GENERATION, PartitionsLost),
        (KafkaError.UNKNOWN_MEMBER_ID, PartitionsLost),
        (KafkaError.FENCED_INSTANCE_ID, PartitionsLost),
        (KafkaError.STALE_MEMBER_EPOCH, PartitionsLost),
        (KafkaError._ASSIGNMENT_LOST, PartitionsLost),
        (KafkaError.OFFSET_METADATA_TOO_LARGE, RecordRefused),
        (KafkaError.REBALANCE_IN_PROGRESS, TransientError),
        (KafkaError.NOT_COORDINATOR, TransientError),
        (KafkaError._TIMED_OUT, TransientError),
        (KafkaError.GROUP_AUTHORIZATION_FAILED, LeaveGroup),
    ],
)
def test_committing(code: int, expected: type[StreamsError]) -> None:
    assert type(errors.committing(_error(code), "group g")) is expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (KafkaError._AUTO_OFFSET_RESET, OffsetOutOfRange),
        (KafkaError.FENCED_INSTANCE_ID, LeaveGroup),
        (KafkaError.GROUP_AUTHORIZATION_FAILED, LeaveGroup),
        (KafkaError._FATAL, LeaveGroup),
        (KafkaError._TRANSPORT, None),
        (KafkaError._MAX_POLL_EXCEEDED, None),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, None),
    ],
)
def test_consuming(code: int, expected: type[StreamsError] | None) -> None:
    failure = errors.consuming(_error(code), "group g")
    assert (None if failure is None else type(failure)) is expected


def test_any_fatal_error_ends_a_consumer() -> None:
    assert type(errors.consuming(_error(KafkaError._TRANSPORT, fatal=True), "group g")) is LeaveGroup


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (KafkaError.UNKNOWN_TOPIC_OR_PART, TopicMissing),
        (KafkaError._UNKNOWN_PARTITION, TopicMissing),
        (KafkaError._TIMED_OUT, TransientError),
        (KafkaError._TRANSPORT, TransientError),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, LeaveGroup),
    ],
)
def test_asking(code: int, expected: type[StreamsError]) -> None:
    assert type(errors.asking(_error(code), "topic t")) is expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (_error(KafkaError.INVALID_PARTITIONS), RecordRefused),
        (_error(KafkaError.INVALID_REPLICATION_FACTOR), RecordRefused),
        (_error(KafkaError.TOPIC_AUTHORIZATION_FAILED), RecordRefused),
        (_error(KafkaError._TIMED_OUT), TransientError),
        (_error(KafkaError.UNKNOWN, retriable=True), TransientError),
    ],
)
def test_creating(error: KafkaError, expected: type[StreamsError]) -> None:
    assert type(errors.creating(error, "t")) is expected
