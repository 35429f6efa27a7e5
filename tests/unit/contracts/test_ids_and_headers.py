"""Ids that repeat with what they name, keys that keep what belongs together together, headers of events."""

from __future__ import annotations

import pytest
from headrace_contracts.content import ContentSealed, plain, text_of
from headrace_contracts.events import Content
from headrace_contracts.headers import cloud_event, header
from headrace_contracts.ids import attempt_id, completion_id, digest, new_id, route_key, usage_id

MESSAGES = [("user", b"What is the capital of France?")]


def _key(**changes: object) -> str:
    arguments: dict[str, object] = {
        "tenant": "acme", "session": None, "role": "writer", "model": None, "messages": MESSAGES,
    }  # fmt: skip
    return route_key(**{**arguments, **changes})  # type: ignore[arg-type]


def test_a_session_keeps_its_tasks_together_whatever_they_say() -> None:
    assert _key(session="s1") == _key(session="s1", messages=[("user", b"other")], role=None) == "s:acme/s1"
    assert _key(session="s1") != _key(session="s1", tenant="other")


def test_equal_prompts_share_a_key_and_only_these() -> None:
    assert _key() == _key(messages=list(MESSAGES))
    different = [
        _key(tenant="other"), _key(role="critic"), _key(role=None, model="writer"), _key(model="m"),
        _key(messages=[("system", MESSAGES[0][1])]), _key(messages=[*MESSAGES, *MESSAGES]), _key(messages=[]),
        _key(messages=[("user", b"What is the capital of"), ("user", b" France?")]),
    ]  # fmt: skip
    assert len({_key(), *different}) == len(different) + 1


def test_digests_keep_their_parts_apart() -> None:
    assert digest(["ab", "c"]) != digest(["a", "bc"]) != digest(["abc"])
    assert digest(["ä"]) == digest(["ä".encode()])


def test_ids_follow_from_what_they_name() -> None:
    assert attempt_id("t", 2) == "t/2"
    assert usage_id("t/2", "e") == "t/2/e"
    assert completion_id("t") == "t/completed"


def test_new_ids_are_of_version_7_and_in_order_of_time() -> None:
    ids = [new_id() for _ in range(100)]
    assert {each[14] for each in ids} == {"7"}
    assert [each[:13] for each in ids] == sorted(each[:13] for each in ids)
    assert len(set(ids)) == 100


def test_events_have_the_headers_of_cloudevents() -> None:
    headers = cloud_event(
        event_id="e1", event_type="headrace.tasks.TaskSubmitted", source="headrace/intake/1", time_ms=1_700_000_000_007,
        tenant="äcme", subject="person-1", traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )  # fmt: skip
    assert dict(headers) == {
        "ce_specversion": b"1.0",
        "ce_id": b"e1",
        "ce_type": b"headrace.tasks.TaskSubmitted",
        "ce_source": b"headrace/intake/1",
        "ce_time": b"2023-11-14T22:13:20.007Z",
        "ce_tenant": "äcme".encode(),
        "content-type": b"application/avro",
        "ce_subject": b"person-1",
        "traceparent": b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }


def test_what_is_not_known_has_no_header() -> None:
    headers = cloud_event(event_id="e", event_type="t", source="s", time_ms=0, tenant="acme")
    assert {"ce_subject", "traceparent"}.isdisjoint(dict(headers))
    assert header(headers, "ce_subject") is None
    assert header(headers, "ce_time") == "1970-01-01T00:00:00.000Z"


def test_the_last_of_equal_headers_counts_and_bad_text_is_shown() -> None:
    assert header([("a", b"1"), ("b", b"2"), ("a", b"\xff")], "a") == "\ufffd"
    assert header([("a", b"1"), ("a", None)], "a") is None


def test_content_is_plain_unless_it_says_otherwise() -> None:
    assert text_of(plain("grüße")) == "grüße"
    assert text_of(plain("lone \ud800 surrogate")) == "lone ? surrogate"
    with pytest.raises(ContentSealed, match="key-7"):
        text_of(Content(cipher="key-7", data=b"..."))
