"""Translates Kafka's errors: the one place that knows which error requires which reaction."""

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException

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

_REFUSED = frozenset({
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.RECORD_LIST_TOO_LARGE,
    KafkaError.INVALID_RECORD,
    KafkaError.INVALID_MSG_SIZE,
    KafkaError.TOPIC_EXCEPTION,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.POLICY_VIOLATION,
    KafkaError.UNSUPPORTED_COMPRESSION_TYPE,
    KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT,
    KafkaError._INVALID_ARG,
})  # fmt: skip
_TOO_LARGE = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE, KafkaError.INVALID_MSG_SIZE})
_MEMBERSHIP_OVER = frozenset({
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.FENCED_INSTANCE_ID,
    KafkaError.FENCED_MEMBER_EPOCH,
    KafkaError.STALE_MEMBER_EPOCH,
    KafkaError._ASSIGNMENT_LOST,
    KafkaError._FENCED,
    KafkaError._DESTROY,
})  # fmt: skip
_UNUSABLE = frozenset({
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.FENCED_INSTANCE_ID,
    KafkaError.UNRELEASED_INSTANCE_ID,
    KafkaError.INCONSISTENT_GROUP_PROTOCOL,
    KafkaError.UNSUPPORTED_ASSIGNOR,
    KafkaError.GROUP_MAX_SIZE_REACHED,
    KafkaError.INVALID_GROUP_ID,
    KafkaError.INVALID_SESSION_TIMEOUT,
    KafkaError.UNSUPPORTED_VERSION,
    KafkaError._AUTHENTICATION,
    KafkaError._FATAL,
    KafkaError._FENCED,
})  # fmt: skip
_MISSING = frozenset({
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
})  # fmt: skip


def error_of(exception: KafkaException) -> KafkaError:
    """The error inside an exception."""
    error = exception.args[0]
    return error if isinstance(error, KafkaError) else KafkaError(KafkaError._FAIL, str(error))


def appending(error: KafkaError, topic: str) -> StreamsError:
    """Why a record was not acknowledged.

    Whatever the last attempt met, an earlier one may have appended it, and only its answer been lost: librdkafka tells
    the last one alone. So nothing but a refusal is certain.
    """
    text = f"{topic}: {_words(error)}"
    if error.code() in _TOO_LARGE:
        return RecordTooLarge(text)
    return RecordRefused(text) if error.code() in _REFUSED else AppendUncertain(text)


def queueing(error: KafkaError, topic: str) -> StreamsError:
    """Why a record could not be queued."""
    refused = appending(error, topic)
    return refused if isinstance(refused, RecordRefused) else TransientError(str(refused))


def is_missing(error: KafkaError) -> bool:
    """Whether a broker, or the client itself, knows of no such topic or partition.

    Either can be behind the cluster: a broker that was cut off while partitions were added, a client until it asks
    again, both while a topic is deleted and made anew.
    """
    return error.code() in _MISSING


def committing(error: KafkaError, what: str) -> StreamsError:
    """Why offsets were not committed."""
    text = f"{what}: {_words(error)}"
    if error.code() in _MEMBERSHIP_OVER:
        return PartitionsLost(text)
    if error.code() in (KafkaError.OFFSET_METADATA_TOO_LARGE, KafkaError.INVALID_COMMIT_OFFSET_SIZE):
        return RecordRefused(text)
    return LeaveGroup(text) if error.code() in _UNUSABLE or error.fatal() else TransientError(text)


def consuming(error: KafkaError, what: str) -> StreamsError | None:
    """What an error met while polling requires; None if librdkafka recovers by itself."""
    text = f"{what}: {_words(error)}"
    if error.code() == KafkaError._AUTO_OFFSET_RESET:
        return OffsetOutOfRange(text)
    return LeaveGroup(text) if error.code() in _UNUSABLE or error.fatal() else None


def asking(error: KafkaError, what: str) -> StreamsError:
    """Why a query about topics or offsets, or the creation of a topic, failed."""
    text = f"{what}: {_words(error)}"
    if error.code() in _MISSING:
        return TopicMissing(f"{text}; provision the topics first")
    if error.code() in _UNUSABLE or error.fatal():
        return LeaveGroup(text)
    return TransientError(text)


def is_leader_moving(error: KafkaError) -> bool:
    """Whether a partition has no known leader at the moment, as right after the creation of its topic."""
    return error.code() in _LEADER_MOVING


def creating(error: KafkaError, topic: str) -> StreamsError:
    """Why a topic was not created."""
    text = f"{topic}: {_words(error)}"
    return TransientError(text) if error.retriable() or error.code() in _PASSING else RecordRefused(text)


_LEADER_MOVING = frozenset({
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.UNKNOWN_LEADER_EPOCH,
})  # fmt: skip
_PASSING = frozenset({
    KafkaError._TIMED_OUT,
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.NOT_CONTROLLER,
    KafkaError.BROKER_NOT_AVAILABLE,
    KafkaError.NETWORK_EXCEPTION,
    KafkaError.THROTTLING_QUOTA_EXCEEDED,
})  # fmt: skip


def _words(error: KafkaError) -> str:
    return f"{error.str()} ({error.name()})"
