"""Pieces of an answer: each once, in order, of one execution at a time."""

from __future__ import annotations

from typing import Any

from headrace_contracts.content import plain
from headrace_contracts.events import ReplyKind, TaskCompleted, TaskReply, TaskStatus, TrailStep
from headrace_intake.decide.replies import (
    NOTHING_YET,
    Delta,
    Heard,
    ReplyUpdate,
    Restarted,
    StillWaiting,
    TaskFinished,
    hear,
)
from hypothesis import given
from hypothesis import strategies as st

END = TaskCompleted(task_id="t", tenant="acme", status=TaskStatus.SUCCEEDED, submitted_at=1, completed_at=2)


def reply(kind: ReplyKind, **fields: Any) -> TaskReply:
    return TaskReply(task_id="t", tenant="acme", kind=kind, emitted_at=0, **fields)


def piece(sequence: int, *, attempt: int = 1, execution: str = "e1", text: str | None = None) -> TaskReply:
    said = text if text is not None else f"{execution}.{sequence} "
    return reply(ReplyKind.DELTA, attempt=attempt, sequence=sequence, execution_id=execution, text=plain(said))


def restart(attempt: int) -> TaskReply:
    return reply(ReplyKind.RESTARTED, attempt=attempt)


def finish() -> TaskReply:
    return reply(ReplyKind.FINISHED, result=END)


def told_of(*replies: TaskReply, heard: Heard = NOTHING_YET) -> list[ReplyUpdate]:
    everything: list[ReplyUpdate] = []
    for each in replies:
        heard, told = hear(heard, each)
        everything.extend(told)
    return everything


def texts(told: list[ReplyUpdate]) -> str:
    shown = ""
    for each in told:
        match each:
            case Delta(text):
                shown += text
            case Restarted():
                shown = ""
            case TaskFinished():
                shown += "|end"
    return shown


def test_pieces_come_through_in_order_up_to_the_end() -> None:
    assert texts(told_of(piece(0), piece(1), finish())) == "e1.0 e1.1 |end"


def test_a_repeated_piece_is_told_once() -> None:
    assert told_of(piece(0), piece(1), piece(1), piece(0), piece(2)) == [
        Delta("e1.0 ", 1), Delta("e1.1 ", 1), Delta("e1.2 ", 1),
    ]  # fmt: skip


def test_nothing_follows_the_end() -> None:
    assert told_of(finish(), finish(), piece(0), restart(2)) == [TaskFinished(END)]


def test_another_attempt_takes_back_what_was_said_even_when_nobody_announces_it() -> None:
    assert told_of(piece(0), piece(0, attempt=2, execution="e2")) == [
        Delta("e1.0 ", 1), Restarted(2), Delta("e2.0 ", 2),
    ]  # fmt: skip
    assert texts(told_of(piece(0), restart(2), piece(0, attempt=2, execution="e2"))) == "e2.0 "


def test_a_restart_before_any_text_is_not_worth_telling() -> None:
    assert told_of(restart(2), piece(0, attempt=2)) == [Delta("e1.0 ", 2)]


def test_a_repeated_restart_does_not_take_back_the_new_attempts_text() -> None:
    new = piece(0, attempt=2, execution="e2")
    assert texts(told_of(piece(0), restart(2), new, restart(2), piece(1, attempt=2, execution="e2"))) == "e2.0 e2.1 "


def test_an_execution_that_was_replaced_is_not_listened_to() -> None:
    told = told_of(piece(0), piece(1), piece(0, execution="e2"), piece(2), piece(1, execution="e2"), piece(3))
    assert texts(told) == "e2.0 e2.1 "


def test_an_attempt_that_was_given_up_is_not_listened_to() -> None:
    told = told_of(piece(0), piece(0, attempt=2, execution="e2"), piece(1), restart(1))
    assert texts(told) == "e2.0 "


def test_where_executions_have_no_names_a_new_beginning_is_one() -> None:
    told = told_of(piece(0, execution="", text="a"), piece(1, execution="", text="b"), piece(0, execution="", text="c"))
    assert texts(told) == "c"


def test_whoever_resumes_takes_up_in_the_middle() -> None:
    assert texts(told_of(piece(7), piece(8))) == "e1.7 e1.8 "


def test_a_finished_reply_without_a_result_tells_nothing() -> None:
    assert told_of(reply(ReplyKind.FINISHED), finish()) == [TaskFinished(END)]


EXECUTIONS = st.lists(st.integers(1, 5), min_size=1, max_size=4)


@given(lengths=EXECUTIONS, data=st.data())
def test_whatever_is_repeated_or_late_the_caller_ends_with_one_executions_text(
    lengths: list[int], data: st.DataObject
) -> None:
    """Executions take over from one another; each may repeat its pieces, and talk on after it was replaced."""
    said: list[TaskReply] = []
    for number, length in enumerate(lengths):
        pieces = [piece(sequence, execution=f"e{number}") for sequence in range(length)]
        for each in pieces:
            said.append(each)
            again: bool = data.draw(st.booleans())
            if again:
                said.append(data.draw(st.sampled_from([late for late in said if late.sequence > 0] or [each])))
    last = len(lengths) - 1
    expected = "".join(f"e{last}.{sequence} " for sequence in range(lengths[last]))
    assert texts(told_of(*said, finish())) == expected + "|end"


def test_a_wait_is_told_until_an_attempt_answers() -> None:
    trail = (TrailStep(at=1, step="waited", reason="no_capacity: nobody offers it"),)
    wait = reply(ReplyKind.WAITING, trail=trail)
    told = told_of(wait, piece(0), wait, finish())
    assert told == [StillWaiting(trail), Delta("e1.0 ", 1), TaskFinished(END)]
    assert StillWaiting(trail).reason == "no_capacity: nobody offers it"
    assert told_of(reply(ReplyKind.WAITING, attempt=1), restart(2), wait) == [StillWaiting(())]
