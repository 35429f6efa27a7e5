"""Dead letters: whole, with their reason, on disk before anybody goes on."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from headrace_contracts.codec import Codec
from headrace_contracts.errors import Origin, UnencodableEvent, UnreadableValue
from headrace_contracts.events import DeadLetter
from headrace_contracts.headers import header
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.topics import TASKS_SUBMITTED, dead_letters_of
from headrace_streams.dead_letters import DeadLetters, message_of
from headrace_streams.errors import RecordRefused, SendToDeadLetters
from headrace_streams.memory import MemoryCluster, MemoryLog
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.records import ProducerRecord, Record
from headrace_streams.typed import decode, origin_of

TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
RECORD = Record(
    "test.tasks.submitted", 3, 14, 159, b"key\xff", b"\x00bytes\xff",
    (("ce_tenant", b"acme"), ("traceparent", TRACE), ("traceparent-2", None)),
)  # fmt: skip


@pytest.fixture
def cluster() -> MemoryCluster:
    return MemoryCluster()


@pytest.fixture
async def codec() -> Codec:
    codec = Codec(MemoryRegistry(), "test.")
    await codec.prepare([dead_letters_of(TASKS_SUBMITTED)], register=True)
    return codec


@pytest.fixture
def dead_letters(cluster: MemoryCluster, codec: Codec) -> DeadLetters:
    publisher = Publisher(MemoryLog(cluster).producer(), codec, "headrace/router/1")
    return DeadLetters(publisher, "router", "test.", lambda: 2653)


async def test_the_record_is_kept_whole_with_its_reason(
    cluster: MemoryCluster, codec: Codec, dead_letters: DeadLetters
) -> None:
    cluster.create_topic("test.tasks.submitted.dlq")
    await dead_letters.keep(RECORD, SendToDeadLetters("no such role"), attempts=5)
    (kept,) = cluster.records("test.tasks.submitted.dlq")
    letter = await decode(codec, DeadLetter, kept)
    assert (letter.service, letter.topic, letter.partition, letter.offset) == ("router", "test.tasks.submitted", 3, 14)
    assert (letter.timestamp, letter.key, letter.value) == (159, b"key\xff", b"\x00bytes\xff")
    assert [(each.name, each.value) for each in letter.headers] == list(RECORD.headers)
    assert (letter.error_type, letter.error_message) == ("SendToDeadLetters", "no such role")
    assert (letter.attempts, letter.failed_at) == (5, 2653)
    assert kept.key == RECORD.key
    assert header(kept.headers, "ce_tenant") == "acme"
    assert header(kept.headers, "traceparent") == TRACE.decode()


async def test_a_record_given_up_twice_has_one_id(cluster: MemoryCluster, dead_letters: DeadLetters) -> None:
    cluster.create_topic("test.tasks.submitted.dlq")
    for _ in range(2):
        await dead_letters.keep(Record("test.tasks.submitted", 0, 7, 0, None, None), ValueError("x"))
    ids = [header(each.headers, "ce_id") for each in cluster.records("test.tasks.submitted.dlq")]
    assert ids == ["test.tasks.submitted/0/7"] * 2


async def test_what_cannot_be_kept_is_not_silently_gone(dead_letters: DeadLetters) -> None:
    with pytest.raises(RecordRefused, match=r"tasks.submitted.dlq does not exist"):
        await dead_letters.keep(RECORD, ValueError("x"))
    with pytest.raises(KeyError):
        await dead_letters.keep(Record("foreign", 0, 0, 0, None, None), ValueError("x"))


def test_the_origin_names_the_record() -> None:
    assert origin_of(RECORD) == Origin("test.tasks.submitted", 3, 14)


def test_the_words_of_foreign_errors_are_not_kept_since_they_may_quote_content() -> None:
    with pytest.raises(ValueError, match="the user wrote") as raised:
        int("what the user wrote")
    assert re.fullmatch(r"in test_the_words_\w+ \(test_dead_letters.py:\d+\)", message_of(raised.value))
    assert message_of(ValueError("what the user wrote")) == ""
    assert message_of(SendToDeadLetters("no such role")) == "no such role"
    assert len(message_of(SendToDeadLetters("x" * 5_000))) == 2_000


async def test_unreadable_values_are_described_without_quoting_them(codec: Codec) -> None:
    secret = "what the user wrote"
    with pytest.raises(UnencodableEvent) as unencodable:
        codec.encode(
            dead_letters_of(TASKS_SUBMITTED),
            DeadLetter(service="x", topic="t", partition=0, offset=0, error_type=secret.encode(), failed_at=0),  # type: ignore[arg-type]
        )
    assert secret not in message_of(unencodable.value)
    assert "error_type" in message_of(unencodable.value)
    value = codec.encode(
        dead_letters_of(TASKS_SUBMITTED),
        DeadLetter(service=secret, topic="t", partition=0, offset=0, error_type="x", failed_at=0),
    )
    for broken in (value[:-1], value + b"x", value[:5] + b"\x7f" * 40 + secret.encode(), secret.encode()):
        with pytest.raises(UnreadableValue) as unreadable:
            codec.decode(DeadLetter, broken, Origin("t", 0, 0))
        assert secret not in message_of(unreadable.value)


class SmallCluster(Publisher):
    """A cluster that takes values of 100,000 bytes at most; the twin has no such limit."""

    def record_of(self, publication: Publication) -> ProducerRecord:
        made = super().record_of(publication)
        if len(made.value or b"") > 100_000:
            raise RecordRefused("too large")
        return made


async def test_a_record_too_large_for_a_dead_letter_is_kept_without_its_value(
    cluster: MemoryCluster, codec: Codec
) -> None:
    cluster.create_topic("test.tasks.submitted.dlq")
    letters = DeadLetters(SmallCluster(MemoryLog(cluster).producer(), codec, "x"), "router", "test.", lambda: 2653)
    await letters.keep(replace(RECORD, value=b"x" * 99_990), ValueError("x"))
    (kept,) = cluster.records("test.tasks.submitted.dlq")
    letter = await decode(codec, DeadLetter, kept)
    assert (letter.value, letter.omitted_bytes, letter.key) == (None, 99_990, RECORD.key)
    # Where the value is not what the cluster refuses, leaving it out would only lose it.
    with pytest.raises(RecordRefused):
        await letters.keep(replace(RECORD, value=b"x", headers=(("h", b"x" * 100_000),)), ValueError("x"))
