"""Tasks as callers see them, pages of them, and places in their events."""

from __future__ import annotations

import pytest
from headrace_contracts.content import plain
from headrace_contracts.events import (
    Content,
    Lane,
    Privacy,
    Sampling,
    TaskCompleted,
    TaskStatus,
    TaskSubmitted,
    TrailStep,
)
from headrace_contracts.ids import new_id
from headrace_intake.decide.pages import After, Filter, cursor, parse_cursor, parse_filter
from headrace_intake.decide.refusals import Refusal
from headrace_intake.decide.resuming import AtTheEnd, ReplyPosition, parse_place, unknown_until
from headrace_intake.decide.views import document, dollars, of_submission, rfc3339, summary, with_completion

TASK = TaskSubmitted(
    task_id="t-1", tenant="acme", user="ann", kind="review", role="tester", messages=(), sampling=Sampling(),
    privacy=Privacy.SENSITIVE, lane=Lane.BATCH, session="s", subject="p", labels={"a": "b"},
    deadline_at=1_700_000_060_000, submitted_at=1_700_000_000_123, reply_partition=2,
)  # fmt: skip
END = TaskCompleted(
    task_id="t-1", tenant="acme", user="ann", kind="review", role="tester", session="s", subject="p", labels={"a": "b"},
    privacy=Privacy.SENSITIVE, lane=Lane.BATCH, status=TaskStatus.SUCCEEDED, answer=plain("fine"), provider="ollama",
    model="phi3", cost_nanodollars=5, attempts=1, submitted_at=1_700_000_000_123, completed_at=1_700_000_002_000,
    trail=(TrailStep(at=1_700_000_000_200, step="dispatched", provider="ollama", reason="local first"),),
)  # fmt: skip


def test_an_accepted_task_shows_what_was_asked_and_nothing_else() -> None:
    shown = document(of_submission(TASK))
    assert (shown["id"], shown["status"], shown["kind"], shown["user"]) == ("t-1", "accepted", "review", "ann")
    assert (shown["privacy"], shown["priority"], shown["labels"]) == ("sensitive", "batch", {"a": "b"})
    assert shown["submitted_at"] == "2023-11-14T22:13:20.123Z"
    assert shown["deadline_at"] == "2023-11-14T22:14:20.000Z"
    for unknown in ("completed_at", "answer", "failure", "provider", "cost_nanodollars", "cost_usd", "usage"):
        assert shown[unknown] is None, unknown
    assert shown["links"] == {"self": "/v1/tasks/t-1", "events": "/v1/tasks/t-1/events"}


def test_an_ended_task_keeps_what_only_its_submission_says() -> None:
    view = with_completion(of_submission(TASK), END)
    assert view.ended
    shown = document(view)
    assert (shown["status"], shown["answer"], shown["cost_usd"]) == ("succeeded", "fine", "0.000000005")
    assert shown["deadline_at"] == "2023-11-14T22:14:20.000Z"
    assert shown["trail"][0]["at"] == "2023-11-14T22:13:20.200Z"


def test_a_task_is_known_from_its_end_alone() -> None:
    view = with_completion(None, END)
    assert (view.task_id, view.tenant, view.role, view.deadline_at) == ("t-1", "acme", "tester", None)


def test_lists_show_neither_answers_nor_trails() -> None:
    assert not {"answer", "trail", "answer_sealed_with"} & summary(with_completion(None, END)).keys()


def test_a_sealed_answer_shows_who_could_open_it() -> None:
    sealed = with_completion(None, TaskCompleted.from_avro(END.to_avro() | {"answer": {"cipher": "k9", "data": b"?"}}))
    shown = document(sealed)
    assert (shown["answer"], shown["answer_sealed_with"]) == (None, "k9")
    assert sealed.answer == Content(cipher="k9", data=b"?")


@pytest.mark.parametrize(
    ("nano", "shown"),
    [(0, "0.000000000"), (1, "0.000000001"), (12_345_678_901, "12.345678901"), (-5, "-0.000000005"), (None, None)],
)
def test_dollars_are_exact(nano: int | None, shown: str | None) -> None:
    assert dollars(nano) == shown


def test_no_time_shows_as_none() -> None:
    assert rfc3339(None) is None


def test_a_filter_reads_what_the_query_says() -> None:
    wanted = parse_filter(
        {"status": "failed", "role": "tester", "kind": "k", "session": "s", "user": "", "since": "2023-11-14T22:13:20Z",
         "until": "1700000001000", "limit": "7"}
    )  # fmt: skip
    assert wanted == Filter(
        status="failed", role="tester", kind="k", session="s", user="", since=1_700_000_000_000,
        until=1_700_000_001_000, limit=7,
    )  # fmt: skip
    assert parse_filter({}) == Filter()


def test_an_unescaped_plus_in_a_time_is_understood() -> None:
    assert parse_filter({"since": "2023-11-14T23:13:20 01:00"}).since == 1_700_000_000_000


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"status": "done"}, "status"),
        ({"limit": "0"}, "limit"),
        ({"limit": "201"}, "limit"),
        ({"limit": "9" * 5_000}, "limit"),
        ({"limit": "²"}, "limit"),
        ({"since": "yesterday"}, "since"),
        ({"session": "a\0b"}, "session"),
        ({"cursor": "!"}, "cursor"),
        ({"cursor": "W10"}, "cursor"),
        ({"cursor": cursor(After(1, "a\ud800"))}, "cursor"),
        ({"cursor": cursor(After(1, "a\0"))}, "cursor"),
        ({"cursor": cursor(After(int("9" * 400), "a"))}, "cursor"),
        ({"stauts": "failed"}, "stauts"),
    ],
)
def test_a_filter_that_cannot_be_understood_is_named(query: dict[str, str], param: str) -> None:
    with pytest.raises(Refusal) as refused:
        parse_filter(query)
    assert refused.value.param == param


def test_a_cursor_comes_back_as_it_was() -> None:
    after = After(1_700_000_000_123, "t/ü-1")
    assert parse_cursor(cursor(after)) == after


def test_a_place_comes_back_as_it_was() -> None:
    assert parse_place(str(ReplyPosition(4, 1871))) == ReplyPosition(4, 1871)
    assert parse_place("finished") == AtTheEnd()
    assert parse_place(None) is None


@pytest.mark.parametrize("text", ["", "4", "4:", "-1:3", "4:1871:1", "a:b", "1:" + "9" * 30])
def test_an_id_that_was_never_given_out_is_refused(text: str) -> None:
    with pytest.raises(Refusal) as refused:
        parse_place(text)
    assert refused.value.kind == "bad-last-event-id"


def test_only_a_young_id_is_waited_for() -> None:
    task_id = new_id()
    made = int(task_id.replace("-", "")[:12], 16)
    assert unknown_until(task_id, made + 5) > made + 5
    assert unknown_until(task_id, made + 60_000) == made + 60_000
    assert unknown_until(task_id, made - 60_000) == made - 60_000
    assert unknown_until("not-a-uuid", made) == made
