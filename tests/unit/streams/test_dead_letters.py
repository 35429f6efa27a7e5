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
    """A cluster that takes records of 100,000 bytes at most; the twin has no such limit."""

    def record_of(self, publication: Publication) -> ProducerRecord:
        made = super().record_of(publication)
        size = len(made.value or b"") + len(made.key or b"")
        if size + sum(len(name) + len(value or b"") for name, value in made.headers) > 100_000:
            raise RecordRefused("too large")
        return made


@pytest.fixture
def small(cluster: MemoryCluster, codec: Codec) -> DeadLetters:
    return DeadLetters(SmallCluster(MemoryLog(cluster).producer(), codec, "x"), "router", "test.", lambda: 2653)


async def test_a_record_too_large_for_a_dead_letter_is_kept_without_its_value(
    cluster: MemoryCluster, codec: Codec, small: DeadLetters
) -> None:
    cluster.create_topic("test.tasks.submitted.dlq")
    await small.keep(replace(RECORD, value=b"x" * 99_990), ValueError("x"))
    (kept,) = cluster.records("test.tasks.submitted.dlq")
    letter = await decode(codec, DeadLetter, kept)
    assert (letter.value, letter.omitted_bytes, letter.key) == (None, 99_990, RECORD.key)
    assert (letter.omitted_key_bytes, letter.omitted_header_bytes) == (None, None)


@pytest.mark.parametrize(
    "record",
    [
        replace(RECORD, key=b"k" * 200_000),
        replace(RECORD, key=b"k" * 60_000, value=None),
        replace(RECORD, key=b"k" * 70_000, value=b"x" * 300_000),
        replace(RECORD, headers=(("traceparent", b"x" * 200_000),)),
        replace(RECORD, headers=(("traceparent", b"x" * 60_000), ("ce_tenant", b"t" * 60_000))),
        replace(RECORD, headers=(("ce_tenant", b"\xff" * 200_000),), key=None, value=None),
        replace(RECORD, headers=(("n" * 200_000, None),)),
        replace(RECORD, headers=tuple((f"header-{number}", b"value") for number in range(10_000))),
    ],
    ids=["key", "key twice", "key and value", "trace", "trace and tenant", "tenant", "name", "10,000 headers"],
)
async def test_the_last_letter_always_fits(
    cluster: MemoryCluster, codec: Codec, small: DeadLetters, record: Record
) -> None:
    cluster.create_topic("test.tasks.submitted.dlq")
    await small.keep(record, SendToDeadLetters("why" * 1_000))
    (kept,) = cluster.records("test.tasks.submitted.dlq")
    letter = await decode(codec, DeadLetter, kept)
    assert (letter.topic, letter.partition, letter.offset, letter.timestamp) == ("test.tasks.submitted", 3, 14, 159)
    assert letter.error_type == "SendToDeadLetters"
    assert letter.error_message.startswith("why")
    assert (letter.key, letter.value, letter.headers) == (None, None, ())
    assert letter.omitted_bytes == (None if record.value is None else len(record.value))
    assert letter.omitted_key_bytes == (None if record.key is None else len(record.key))
    assert letter.omitted_header_bytes == sum(len(name) + len(value or b"") for name, value in record.headers)
    assert header(kept.headers, "ce_id") == "test.tasks.submitted/3/14"


async def test_what_is_small_is_not_left_out(small: DeadLetters, cluster: MemoryCluster) -> None:
    # The cluster refuses it for another reason: leaving anything out would only lose it.
    with pytest.raises(RecordRefused, match="does not exist"):
        await small.keep(RECORD, ValueError("x"))


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "x\ud83d"])
async def test_a_reason_of_any_text_can_be_kept(
    cluster: MemoryCluster, codec: Codec, dead_letters: DeadLetters, text: str
) -> None:
    cluster.create_topic("test.tasks.submitted.dlq")
    await dead_letters.keep(RECORD, SendToDeadLetters(text))
    (kept,) = cluster.records("test.tasks.submitted.dlq")
    assert "?" in (await decode(codec, DeadLetter, kept)).error_message
