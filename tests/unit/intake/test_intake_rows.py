"""Rows of the task view: whatever anybody produces must fit, or be told apart."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest
from headrace_contracts.content import plain
from headrace_contracts.events import (
    Failure,
    TaskCancelled,
    TaskCompleted,
    TaskStatus,
    TaskSubmitted,
    TrailStep,
    Usage,
)
from headrace_intake.decide.rows import COMPLETED_COLUMNS, SUBMITTED_COLUMNS, NotAViewRow, rows_of
from headrace_streams.records import Record


def record(key: bytes | None = b"k", partition: int = 4) -> Record:
    return Record("headrace.tasks.submitted", partition, 9, 0, key, b"")


def submitted(**changes: Any) -> TaskSubmitted:
    return TaskSubmitted(**{"task_id": "t", "tenant": "acme", "messages": (), "submitted_at": 1_000, **changes})


def completed(**changes: Any) -> TaskCompleted:
    fields = {"task_id": "t", "tenant": "acme", "status": TaskStatus.SUCCEEDED, "submitted_at": 1, "completed_at": 2}
    return TaskCompleted(**{**fields, **changes})


def row(event: TaskSubmitted | TaskCompleted, of: Record | None = None) -> dict[str, Any]:
    rows, unusable = rows_of([(of or record(), event)])
    assert not unusable
    if isinstance(event, TaskSubmitted):
        return {name: value for (name, _), value in zip(SUBMITTED_COLUMNS, rows.submitted["t"], strict=True)}
    return {name: value for (name, _), value in zip(COMPLETED_COLUMNS, rows.completed["t"], strict=True)}


def test_a_submission_is_found_where_it_came_in() -> None:
    found = row(submitted(model="m", reply_partition=2, labels={"a": "b"}), record(b"route", 5))
    assert (found["route_key"], found["home_partition"], found["reply_partition"]) == (b"route", 5, 2)
    assert found["requested_model"] == "m"
    assert json.loads(found["labels"]) == {"a": "b"}


def test_no_prompt_comes_near_the_view() -> None:
    from headrace_contracts.events import Message

    task = submitted(messages=(Message(role="user", content=plain("top secret")),))
    assert "top secret" not in repr(row(task))


def test_a_completion_has_answer_failure_usage_and_trail() -> None:
    found = row(
        completed(
            answer=plain("hi"),
            failure=Failure(code="c", message="m"),
            trail=(TrailStep(at=5, step="waited"),),
            home_partition=3,
        )
    )
    assert (found["answer"], found["answer_cipher"]) == (b"hi", "none")
    assert (found["failure_code"], found["failure_message"]) == ("c", "m")
    assert json.loads(found["trail"])[0]["step"] == "waited"
    assert found["home_partition"] == 3


def test_every_count_of_the_usage_has_a_column_of_its_name() -> None:
    counts = {field.name: number for number, field in enumerate(fields(Usage), start=1)}
    found = row(completed(usage=Usage(**counts)))
    assert {name: found[name] for name in counts} == counts


def test_what_postgres_cannot_hold_is_made_to_fit() -> None:
    found = row(
        submitted(role="a\0b", session="s" * 5_000, labels={"k\0": "v\0" * 9_000}, submitted_at=-1, deadline_at=2**62),
        record(b"x" * 2_000),
    )
    assert found["role"] == "a\ufffdb"
    assert len(found["session"]) == 200
    assert "\0" not in found["labels"]
    assert "\\u0000" not in found["labels"]
    assert (found["submitted_at"], found["deadline_at"]) == (0, 253_402_300_799_999)
    assert found["route_key"] is None
    assert row(completed(model_ms=float("inf")))["model_ms"] == 0.0


@pytest.mark.parametrize("changes", [{"task_id": ""}, {"task_id": "x" * 201}, {"task_id": "a\0"}, {"tenant": ""}])
def test_an_event_without_a_possible_id_or_tenant_is_set_aside(changes: dict[str, str]) -> None:
    first = record()
    rows, unusable = rows_of([(first, submitted(**changes)), (record(), submitted())])
    assert [each for each, _ in unusable] == [first]
    assert isinstance(unusable[0][1], NotAViewRow)
    assert list(rows.submitted) == ["t"]


def test_an_event_of_another_kind_is_set_aside() -> None:
    _, unusable = rows_of([(record(), TaskCancelled(task_id="t", tenant="acme", requested_at=1))])
    assert len(unusable) == 1


def test_of_repeated_events_the_first_counts() -> None:
    rows, _ = rows_of(
        [(record(), completed(node="first")), (record(), completed(node="second")), (record(), submitted())]
    )
    assert len(rows.completed) == len(rows.submitted) == 1
    assert "first" in rows.completed["t"]
