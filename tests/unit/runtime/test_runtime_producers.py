"""Who may write a record that names a tenant."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from headrace_contracts.events import AccessKey
from headrace_contracts.producer_signature import SigningKey
from headrace_contracts.topics import ATTEMPTS_FINISHED, SKILLS_SUBMITTED, TASKS_CANCELLED, TASKS_SUBMITTED, TOPICS
from headrace_runtime.producers import ProducerRefused, SignatureFlaw
from headrace_runtime.redaction import redact_mapping, redact_text
from headrace_streams.dead_letters import message_of
from headrace_streams.records import Record
from headrace_testing.signatures import (
    FORGERIES,
    MINE,
    NEW,
    SECRET,
    TAKEN,
    Signing,
    access_key,
    keys,
    signed,
    verification,
)

SUBMISSIONS = [TASKS_SUBMITTED.name, TASKS_CANCELLED.name, SKILLS_SUBMITTED.name]


def record(
    headers: Signing, topic: str = TASKS_SUBMITTED.name, key: bytes | None = b"k", value: bytes = b"v"
) -> Record:
    name = "headrace." + topic
    return Record(name, 0, 0, 0, key, value, tuple(headers(name, key, value)))


def test_everything_that_others_may_write_is_signed() -> None:
    written = {name for name, spec in TOPICS.items() if "anyone" in spec.writers}
    assert written == set(SUBMISSIONS) == {name for name, spec in TOPICS.items() if spec.scope is not None}


@pytest.mark.parametrize("topic", SUBMISSIONS)
@pytest.mark.parametrize("unsigned", ["refuse", "accept"])
@pytest.mark.parametrize("how", TAKEN)
async def test_signed_records_are_taken(how: str, unsigned: str, topic: str) -> None:
    await verification(keys(), unsigned).verify(record(TAKEN[how], topic), "acme")


@pytest.mark.parametrize("topic", SUBMISSIONS)
@pytest.mark.parametrize("how", FORGERIES)
async def test_others_are_refused_with_what_is_wrong(how: str, topic: str) -> None:
    forgery = FORGERIES[how]
    with pytest.raises(ProducerRefused) as refused:
        await verification(keys(), patience_seconds=0.0).verify(record(forgery.headers, topic), "acme")
    assert refused.value.flaw is forgery.flaw
    text = message_of(refused.value)
    assert text.startswith(str(forgery.flaw))
    assert "sign" in text or "send" in text, "it says what to do"


@pytest.mark.parametrize("how", FORGERIES)
async def test_unsigned_records_are_taken_while_they_are_accepted_but_wrong_signatures_are_not(how: str) -> None:
    forged = record(FORGERIES[how].headers)
    accepting = verification(keys(), "accept", patience_seconds=0.0)
    if FORGERIES[how].flaw is SignatureFlaw.UNSIGNED:
        await accepting.verify(forged, "acme")
    else:
        with pytest.raises(ProducerRefused):
            await accepting.verify(forged, "acme")


@pytest.mark.parametrize("how", FORGERIES)
async def test_without_the_secret_and_on_other_topics_everything_is_taken(how: str) -> None:
    await verification(keys(), secret=None).verify(record(FORGERIES[how].headers), "acme")
    await verification(keys()).verify(record(FORGERIES[how].headers, ATTEMPTS_FINISHED.name), "acme")


async def test_a_scope_is_that_of_the_topic() -> None:
    known = {MINE: access_key(MINE, "acme", "skills"), NEW: access_key(NEW, "acme", "tasks")}
    verifying = verification(known)
    for key_id, taken, refused in ((MINE, SUBMISSIONS[2:], SUBMISSIONS[:2]), (NEW, SUBMISSIONS[:2], SUBMISSIONS[2:])):
        for topic in taken:
            await verifying.verify(record(signed(key_id), topic), "acme")
        for topic in refused:
            with pytest.raises(ProducerRefused, match=r"key lacks the scope (tasks|skills)"):
                await verifying.verify(record(signed(key_id), topic), "acme")


@pytest.mark.parametrize("after", [0.0, 0.05, 0.2])
async def test_a_key_that_was_created_a_moment_ago_is_waited_for(after: float) -> None:
    known: dict[str, AccessKey] = keys()
    verifying = verification(known, patience_seconds=5.0)
    asyncio.get_running_loop().call_later(after, known.update, {NEW: access_key(NEW)})
    async with asyncio.timeout(2):
        await verifying.verify(record(signed(NEW)), "acme")


async def test_a_key_that_does_not_come_is_waited_for_once() -> None:
    verifying, clock = verification(keys(), patience_seconds=0.3), asyncio.get_running_loop().time
    began = clock()
    for _ in range(50):
        with pytest.raises(ProducerRefused, match="key unknown"):
            await verifying.verify(record(signed(NEW)), "acme")
    assert 0.3 <= clock() - began < 3.0, "not 15 s"
    verifying._keys.update({NEW: access_key(NEW)})  # type: ignore[attr-defined]
    await verifying.verify(record(signed(NEW)), "acme")


@pytest.mark.parametrize("unsigned", ["refuse", "accept"])
@pytest.mark.parametrize("topic", SUBMISSIONS)
async def test_a_key_that_was_forgotten_signs_as_little_as_a_revoked_one(topic: str, unsigned: str) -> None:
    known: dict[str, AccessKey] = keys()
    verifying = verification(known, unsigned, patience_seconds=0.01)
    await verifying.verify(record(signed(MINE), topic), "acme")
    for change, flaw in ((replace(known[MINE], revoked_at=1), "key revoked"), (None, "key unknown")):
        known.pop(MINE)
        known.update({} if change is None else {MINE: change})
        with pytest.raises(ProducerRefused, match=flaw):
            await verifying.verify(record(signed(MINE), topic), "acme")


async def test_invented_keys_make_nobody_wait() -> None:
    verifying = verification(keys(), patience_seconds=60.0)
    for number in range(300):
        invented = f"{number:016b}".replace("0", "a").replace("1", "b")
        forged = record(lambda topic, key, value, invented=invented: [  # type: ignore[misc]
            ("headrace_signature", f"v1 {invented} {'0' * 64}".encode())
        ])  # fmt: skip
        with pytest.raises(ProducerRefused, match="signature does not fit"):
            verifying.check(forged, "acme")
    assert not verifying._met_at


async def test_refused_records_are_counted_by_reason() -> None:
    verifying = verification(keys(), patience_seconds=0.0)
    for how in ("no header", "revoked key", "revoked key"):
        forged = record(FORGERIES[how].headers)
        with pytest.raises(ProducerRefused) as refused:
            await verifying.verify(forged, "acme")
        verifying.count(forged, refused.value)
    labels = ("headrace.tasks.submitted", "key revoked")
    assert verifying._counter.labels(*labels)._value.get() == 2


@pytest.mark.parametrize("name", ["signing_key", "HEADRACE_SIGNING_KEY", "anything"])
def test_signing_keys_are_not_logged(name: str) -> None:
    secret = SigningKey.of(SECRET, MINE)
    assert secret.code not in str(redact_mapping({name: str(secret), "more": [f"given {secret}, thanks"]}))
    assert secret.code not in redact_text(f"HEADRACE_SIGNING_KEY={secret}")
