"""The events of a streamed response, whatever order its pieces come in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from headrace_contracts.content import plain
from headrace_contracts.events import AnswerChoice, Citation, Failure, MessagePart, PartKind, TaskStatus, Turn, Usage
from headrace_intake.decide.replies import HeardPiece
from headrace_intake.decide.responses.output import output_items, response
from headrace_intake.decide.responses.stream import ResponseEvents
from headrace_intake.decide.responses.turns import KeptTurn
from headrace_intake.decide.views import TaskView
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

KEPT = KeptTurn(turn=Turn(), instructions=None, messages=())
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def view(**changes: Any) -> TaskView:
    fields: dict[str, Any] = {
        "task_id": "t1", "tenant": "acme", "submitted_at": 5_000, "requested_model": "auto", "status": "succeeded",
        "completed_at": 9_000, "provider": "groq", "model": "m", "usage": Usage(input_tokens=1, output_tokens=2),
    }  # fmt: skip
    return TaskView(**{**fields, **changes})


def part(kind: PartKind, text: str, number: int = 0) -> MessagePart:
    if kind is PartKind.TOOL_CALL:
        return MessagePart(kind=kind, call_id=f"c{number}", name=f"f{number}", content=plain(text))
    if kind is PartKind.REASONING:
        return MessagePart(kind=kind, content=plain(text), provider="groq")
    return MessagePart(kind=kind, content=plain(text))


def answered(parts: Sequence[MessagePart], reason: str = "stop", **changes: Any) -> TaskView:
    return view(choices=(AnswerChoice(parts=tuple(parts), finish_reason=reason),), finish_reason=reason, **changes)


def heard(kind: PartKind, text: str, number: int = 0, *, opens: bool = False) -> HeardPiece:
    if kind is PartKind.TOOL_CALL:
        return HeardPiece(kind, 0, number, text, f"c{number}" if opens else None, f"f{number}" if opens else None)
    return HeardPiece(kind, 0, 0, text, None, None)


def played(pieces: Sequence[HeardPiece], end: TaskView) -> list[dict[str, Any]]:
    made = ResponseEvents(KEPT, view(status="accepted"))
    events = [*made.opening(), *(event for piece in pieces for event in made.piece(piece)), *made.ending(end)]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    for event in events:
        EVENT.validate_python(event)
    return events


def assembled(events: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """What a client puts together from the pieces: kind and text of each item, checked against the last event."""
    texts: dict[int, str] = {}
    kinds: dict[int, str] = {}
    done: set[int] = set()
    for event in events:
        place = event.get("output_index", -1)
        match event["type"].removeprefix("response."):
            case "output_item.added":
                assert place == len(kinds), "items are numbered in order"
                kinds[place], texts[place] = event["item"]["type"], ""
            case (
                "output_text.delta" | "refusal.delta" | "function_call_arguments.delta" | "reasoning_summary_text.delta"
            ):
                assert place not in done, "nothing follows what is done"
                texts[place] += event["delta"]
            case "output_item.done":
                done.add(place)
    assert done == set(kinds)
    output = events[-1]["response"]["output"]
    assert [item["type"] for item in output] == [kinds[place] for place in sorted(kinds)]
    for place, item in enumerate(output):
        assert said_in(item) == texts[place]
    return [(kinds[place], texts[place]) for place in sorted(kinds)]


def said_in(item: dict[str, Any]) -> str:
    if item["type"] == "function_call":
        return str(item["arguments"])
    parts = item["summary"] if item["type"] == "reasoning" else item["content"]
    return "".join(part.get("text") or part.get("refusal") or "" for part in parts)


KINDS = st.sampled_from([PartKind.REASONING, PartKind.TEXT, PartKind.TOOL_CALL])


@st.composite
def answers(draw: st.DrawFn) -> tuple[list[MessagePart], list[HeardPiece]]:
    """An answer, and a beginning of its pieces, those of different items mixed."""
    kinds = draw(st.lists(KINDS, min_size=1, max_size=5))
    parts: list[MessagePart] = []
    cut: list[list[HeardPiece]] = []
    calls = 0
    for kind in kinds:
        text = draw(st.text("ab", max_size=6))
        number = 0
        if kind is PartKind.TOOL_CALL:
            number, calls = calls, calls + 1
            text = '{"a": "' + text + '"}'
        at = draw(st.integers(0, len(text)))
        pieces = [heard(kind, text[:at], number, opens=True), heard(kind, text[at:], number)]
        parts.append(part(kind, text, number))
        cut.append(pieces)
    mixed: list[HeardPiece] = []
    if draw(st.booleans()):
        mixed = [piece for pieces in cut for piece in pieces]
    else:
        # Calls that are made at once come in turns; texts keep their order.
        texts = [piece for pieces in cut for piece in pieces if piece.kind is not PartKind.TOOL_CALL]
        made = [pieces for pieces in cut if pieces[0].kind is PartKind.TOOL_CALL]
        mixed = [*texts, *(pieces[turn] for turn in range(2) for pieces in made)]
    return parts, mixed[: draw(st.integers(0, len(mixed)))]


@settings(max_examples=80, deadline=None)
@given(answers())
def test_whatever_comes_in_pieces_adds_up_to_the_answer(case: tuple[list[MessagePart], list[HeardPiece]]) -> None:
    parts, pieces = case
    end = answered(parts)
    events = played(pieces, end)
    assert events[-1]["type"] == "response.completed"
    told = assembled(events)
    for kind in ("reasoning", "message", "function_call"):
        whole = "".join(said_in(item) for item in output_items(end) if item["type"] == kind)
        assert "".join(text for each, text in told if each == kind) == whole
    Response.model_validate(response(KEPT, end))


@pytest.mark.parametrize(
    ("pieces", "parts"),
    [
        ([heard(PartKind.TEXT, "Wrong")], [part(PartKind.TEXT, "Right")]),
        ([heard(PartKind.TOOL_CALL, '{"a"', opens=True)], [part(PartKind.TEXT, "Right")]),
        ([heard(PartKind.TOOL_CALL, "", 0, opens=True)], [part(PartKind.TOOL_CALL, "{}", 9)]),
        ([heard(PartKind.TOOL_CALL, "{}", 0, opens=True)], [part(PartKind.TOOL_CALL, "{}", 9)]),
        ([heard(PartKind.REASONING, "Hm"), heard(PartKind.TEXT, "x")], [part(PartKind.TEXT, "x")]),
    ],
)
def test_what_was_sent_and_is_no_part_of_the_answer_ends_with_an_error(pieces: Any, parts: Any) -> None:
    events = played(pieces, answered(parts))
    assert (events[-1]["type"], events[-1]["code"]) == ("error", "stream-broken")
    assert events[-1]["error"]["message"], "the package raises what is in it"
    assert not any("function_call_arguments.done" in event["type"] for event in events)


@pytest.mark.parametrize("cut", ["", '{"a"', '{"a": 1'])
def test_a_call_that_was_cut_off_at_the_limit_is_never_done(cut: str) -> None:
    pieces = [heard(PartKind.TEXT, "Well"), heard(PartKind.TOOL_CALL, cut, opens=True)]
    events = played(pieces, answered([part(PartKind.TEXT, "Well")], "length"))
    assert events[-1]["type"] == "response.incomplete"
    assert [item["type"] for item in events[-1]["response"]["output"]] == ["message"]
    done = [event["item"]["type"] for event in events if event["type"] == "response.output_item.done"]
    assert done == ["message"]


@pytest.mark.parametrize(
    ("end", "status", "code"),
    [
        (view(status="failed", failure=Failure(code="broken")), "failed", "server_error"),
        (view(status="failed", failure=Failure(code="rate_limited")), "failed", "rate_limit_exceeded"),
        (view(status="failed", failure=Failure(code="context_too_long")), "failed", "invalid_prompt"),
        (view(status="expired"), "failed", "server_error"),
        (view(status="cancelled"), "cancelled", None),
    ],
)  # fmt: skip
def test_an_end_without_an_answer_is_told(end: TaskView, status: str, code: str | None) -> None:
    last = played([heard(PartKind.TEXT, "Half")], end)[-1]
    assert (last["type"], last["response"]["status"]) == ("response.failed", status)
    assert (last["response"]["error"] or {}).get("code") == code


def test_sources_are_told_with_the_text() -> None:
    cited = Citation(url=plain("https://example.com"), title=plain("Example"), start=0, end=4)
    choice = AnswerChoice(parts=(part(PartKind.TEXT, "True"),), finish_reason="stop", citations=(cited,))
    events = played([heard(PartKind.TEXT, "True")], view(choices=(choice,), finish_reason="stop"))
    (added,) = (event for event in events if event["type"] == "response.output_text.annotation.added")
    assert added["annotation"]["url"] == "https://example.com"
    assert events[-1]["response"]["output"][0]["content"][0]["annotations"] == [added["annotation"]]


@pytest.mark.parametrize("status", [status.value for status in TaskStatus])
def test_every_end_is_a_response_that_the_package_accepts(status: str) -> None:
    answer = plain("x") if status in (TaskStatus.SUCCEEDED, TaskStatus.REFUSED) else None
    made = response(KEPT, view(status=status, answer=answer))
    Response.model_validate(made, strict=True)
