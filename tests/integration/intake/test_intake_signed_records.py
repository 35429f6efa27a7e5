"""Keys and preferences that somebody else has written to Kafka have no effect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from headrace_contracts.events import AccessKey, Preferences, PrivacyLevel
from headrace_contracts.producer_signature import SigningKey
from headrace_contracts.record_mac import MAC_HEADER, RecordMac
from headrace_contracts.topics import ACCESS_KEYS, PREFERENCES, TASKS_CANCELLED, TASKS_SUBMITTED
from headrace_runtime.access import hash_secret, make_key
from headrace_streams.records import ProducerRecord
from headrace_testing.engine import eventually
from headrace_testing.intake_bed import BOOTSTRAP_KEY, PEPPER, Bed, silence
from headrace_testing.signatures import verification

_MINE = make_key(b"m" * 40)


def _forged(bed: Bed, *, tenant: str = "acme") -> AccessKey:
    """A key of the attacker's own making, an administrator's."""
    return AccessKey(
        key_id=_MINE.key_id, tenant=tenant, secret_hash=hash_secret(PEPPER, _MINE.secret), scopes=("admin", "tasks"),
        created_at=1,
    )  # fmt: skip


def _record(bed: Bed, key: bytes, value: bytes | None, topic: str, *headers: tuple[str, bytes]) -> ProducerRecord:
    return ProducerRecord(topic=bed.codec.topic_prefix + topic, value=value, key=key, headers=headers)


_CODES: dict[str, Callable[[Bed, bytes, bytes | None], list[tuple[str, bytes]]]] = {
    "no code": lambda bed, key, value: [],
    "another secret's": lambda bed, key, value: [(MAC_HEADER, RecordMac("guessed").of(_topic(bed), key, value))],
    "another key's": lambda bed, key, value: [(MAC_HEADER, RecordMac(PEPPER).of(_topic(bed), b"other", value))],
    "another topic's": lambda bed, key, value: [(MAC_HEADER, RecordMac(PEPPER).of("headrace.preferences", key, value))],
}


def _topic(bed: Bed) -> str:
    return bed.codec.topic_prefix + ACCESS_KEYS.name


@pytest.mark.parametrize("code", _CODES)
async def test_a_forged_key_opens_nothing(bed: Bed, code: str) -> None:
    running = await bed.intake()
    key, value = _MINE.key_id.encode(), bed.codec.encode(ACCESS_KEYS, _forged(bed))
    bed.cluster.append(_record(bed, key, value, ACCESS_KEYS.name, *_CODES[code](bed, key, value)))
    await asyncio.sleep(0.3)
    assert (await running.call("GET", "/v1/keys", key=str(_MINE)))[0] == 401
    assert running.metrics.get_sample_value("headrace_log_forged_records_total", {"topic": _topic(bed)}) == 1


@pytest.mark.parametrize("how", ["removed", "changed", "revoked"])
async def test_a_stored_key_is_not_touched_by_a_forgery(bed: Bed, how: str) -> None:
    running = await bed.intake()
    key_id = BOOTSTRAP_KEY.split("_")[1]
    stored = AccessKey(
        key_id=key_id, tenant="mallory", secret_hash="0" * 64, scopes=("admin",), created_at=1,
        revoked_at=1 if how == "revoked" else None,
    )  # fmt: skip
    value = None if how == "removed" else bed.codec.encode(ACCESS_KEYS, stored)
    bed.cluster.append(_record(bed, key_id.encode(), value, ACCESS_KEYS.name))
    await asyncio.sleep(0.3)
    assert (await running.call("GET", "/v1/keys", key=BOOTSTRAP_KEY))[0] == 200


async def test_forged_preferences_lower_nothing(bed: Bed) -> None:
    running = await bed.intake()
    body = {"privacy_level": "high"}
    assert (await running.call("PUT", "/v1/preferences", body, key=BOOTSTRAP_KEY))[0] == 200
    lower = Preferences(tenant="default", user="", privacy_level=PrivacyLevel.LOW, updated_at=2**45)
    for value in (bed.codec.encode(PREFERENCES, lower), None):
        bed.cluster.append(_record(bed, b"default/", value, PREFERENCES.name))
    await asyncio.sleep(0.3)
    shown = (await running.call("GET", "/v1/preferences", key=BOOTSTRAP_KEY))[1]
    assert shown["privacy_level"] == "high"


async def test_records_of_an_earlier_release_are_signed_once_they_are_accepted(bed: Bed) -> None:
    old = replace(_forged(bed), scopes=("tasks",))
    bed.cluster.append(_record(bed, old.key_id.encode(), bed.codec.encode(ACCESS_KEYS, old), ACCESS_KEYS.name))
    async with bed.running() as refusing:
        assert (await refusing.call("GET", "/v1/tasks", key=str(_MINE)))[0] == 401
    async with bed.running(unsigned_records="accept") as accepting:
        assert (await accepting.call("GET", "/v1/preferences", key=str(_MINE)))[0] == 200
    async with bed.running() as refusing:
        assert (await refusing.call("GET", "/v1/preferences", key=str(_MINE)))[0] == 200
        await eventually(lambda: len(bed.cluster.records(_topic(bed))) >= 2, "a signed record", 30)


async def test_what_callers_submit_and_cancel_is_signed_by_intake(bed: Bed) -> None:
    bed.router.answer = silence
    running = await bed.intake()
    for text in ("one", "two", "three"):
        body = {"messages": [{"role": "user", "content": text}]}
        status, task, _ = await running.call("POST", "/v1/tasks", body)
        assert status == 202
        await bed.router.until(lambda: len(bed.router.tasks) > 0)
        assert (await running.call("DELETE", f"/v1/tasks/{task['id']}"))[0] in (200, 202)
    refusing = verification({}, secret=PEPPER)
    for spec, of_tenant in ((TASKS_SUBMITTED, "default"), (TASKS_CANCELLED, "default")):
        records = bed.cluster.records(bed.codec.topic_prefix + spec.name)
        assert len(records) == 3
        for record in records:
            await refusing.verify(record, of_tenant)


@pytest.mark.parametrize("scopes", [["tasks"], ["skills", "costs"], ["admin"]])
async def test_a_key_comes_with_its_signing_key_which_is_shown_once(bed: Bed, scopes: list[str]) -> None:
    running = await bed.intake()
    status, made, headers = await running.call("POST", "/v1/keys", {"tenant": "acme", "scopes": scopes})
    assert (status, headers["Cache-Control"]) == (201, "no-store")
    assert SigningKey.parse(made["signing_key"]) == SigningKey.of(PEPPER, made["id"])
    listed = str((await running.call("GET", "/v1/keys"))[1])
    stored = b"".join(record.value or b"" for record in bed.cluster.records(_topic(bed)))
    code = SigningKey.of(PEPPER, made["id"]).code
    assert made["id"] in listed
    assert code not in listed
    assert code.encode() not in stored
