"""What others wrote is shown as far as it can be, and never ends the showing."""

from __future__ import annotations

import json
import math

import pytest
from headrace.cli.records import record_document, record_line
from headrace.cli.timeparse import parse_time_or_age
from headrace.times import local_clock, local_iso, utc
from headrace_contracts.content import plain
from headrace_contracts.events import Content, Message, Sampling, TaskCompleted, TaskStatus, TaskSubmitted
from headrace_streams.records import Record

ODD_TIMES = (1_760_000_000_000_000, 2**63 - 1, -(2**63), 253_402_300_800_000, -62_135_596_800_001, 10**18)


def record(timestamp_ms: int = 1_760_000_000_000, key: bytes | None = b"k") -> Record:
    return Record("headrace.tasks.completed", 0, 7, timestamp_ms, key, b"", (("ce_id", b"\xff\x00"), ("x", None)))


def submitted(**fields: object) -> TaskSubmitted:
    said = (Message(role="user", content=plain("x")),)
    return TaskSubmitted(**{"task_id": "t", "tenant": "acme", "messages": said, "submitted_at": 0, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize("time_ms", ODD_TIMES)
def test_times_that_are_none_are_shown_as_numbers(time_ms: int) -> None:
    end = TaskCompleted(task_id="t", tenant="a", status=TaskStatus.FAILED, submitted_at=time_ms, completed_at=time_ms)
    assert f"submitted_at={time_ms} ms" in record_line(record(), end).plain
    assert str(time_ms) in record_line(record(timestamp_ms=time_ms), end).plain
    document = record_document(record(timestamp_ms=time_ms), end)
    assert document["timestamp"] is None
    assert json.loads(json.dumps(document))["event"]["completed_at"] == time_ms
    assert utc(time_ms) is None
    assert local_iso(time_ms) is None


@pytest.mark.parametrize("time_ms", [0, -1, 1_760_000_000_000, 253_402_300_799_999, -62_135_596_800_000])
def test_other_times_are_shown(time_ms: int) -> None:
    assert utc(time_ms) is not None
    assert local_clock(time_ms)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_does_not_have_are_text(number: float) -> None:
    document = record_document(record(), submitted(sampling=Sampling(temperature=number)))
    assert json.loads(json.dumps(document, allow_nan=False))["event"]["sampling"]["temperature"] == str(number)
    assert record_line(record(), submitted(sampling=Sampling(temperature=number))).plain


@pytest.mark.parametrize(
    "fields",
    [
        {"tenant": "\x00\x1b[2J"}, {"session": "x" * 1_500_000}, {"labels": {"\x00": "\ud800"}},
        {"messages": (Message(role="", content=Content(cipher="none", data=b"\xff\xfe")),)},
        {"messages": (Message(role="u", content=Content(cipher="key-1", data=b"\xff")),)}, {"messages": ()},
    ],
)  # fmt: skip
def test_odd_texts_are_shown(fields: dict[str, object]) -> None:
    assert record_line(record(key=b"\xff"), submitted(**fields)).plain
    json.dumps(record_document(record(key=None), submitted(**fields)))


@pytest.mark.parametrize("text", ["999999999999999d", "1e9", "yesterday", "0000-00-00", "99999999999999999999s"])
def test_an_impossible_age_is_named(text: str) -> None:
    now = utc(0)
    assert now is not None
    with pytest.raises(ValueError, match="neither a time"):
        parse_time_or_age(text, now)
