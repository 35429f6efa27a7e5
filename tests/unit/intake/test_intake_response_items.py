"""Input items of the Responses API as messages, and what is kept of them."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from headrace_contracts.content import plain, text_of
from headrace_contracts.events import Content, Message, MessagePart, Options, PartKind, TaskSubmitted, Tool, Turn
from headrace_intake.decide.refusals import Refusal
from headrace_intake.decide.responses.calls import check_calls
from headrace_intake.decide.responses.continuing import PastTurn, input_listing, said_by_id, task_of_item
from headrace_intake.decide.responses.items import (
    input_items,
    messages_of,
    sealed_thoughts,
)
from headrace_intake.decide.responses.listing import item_page, starting_after
from headrace_intake.decide.responses.request import ResponseRequest, taken_response
from headrace_intake.decide.responses.turns import KeptTurn, loaded_turn, stored_turn, turn_of_task

PNG = "data:image/png;base64," + base64.b64encode(b"png").decode()


def parse(document: Any, model: Any, where: str) -> Any:
    return model.model_validate(document)


def messages(*items: Any) -> tuple[Message, ...]:
    return messages_of(input_items(list(items), parse), {})


def call(call_id: str, **more: Any) -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": "f", "arguments": "{}", **more}


def output(call_id: str, said: Any = "ok", **more: Any) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": said, **more}


def shape(said: tuple[Message, ...]) -> list[tuple[str, list[str]]]:
    return [(message.role, [part.kind.value for part in message.parts] or ["text"]) for message in said]


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([{"role": "user", "content": "x"}], [("user", ["text"])]),
        ([{"role": "developer", "content": "x"}, {"type": "message", "role": "user", "content": "y"}],
         [("system", ["text"]), ("user", ["text"])]),
        ([{"role": "user", "content": [{"type": "input_text", "text": "x"}]}], [("user", ["text"])]),
        ([{"role": "user", "content": [{"type": "input_text", "text": "x"},
                                       {"type": "input_image", "image_url": PNG, "detail": "high"}]}],
         [("user", ["text", "image"])]),
        ([{"role": "user", "content": [{"type": "input_file", "file_url": "https://example.com/a.pdf"}]}],
         [("user", ["file"])]),
        ([{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]}],
         [("user", ["audio"])]),
        # One answer, given as several items.
        ([call("a"), call("b"), output("a"), output("b")],
         [("assistant", ["tool_call", "tool_call"]), ("tool", ["tool_result"]), ("tool", ["tool_result"])]),
        ([call("a"), {"role": "assistant", "content": "Look."}, output("a")],
         [("assistant", ["text", "tool_call"]), ("tool", ["tool_result"])]),
        ([{"type": "message", "role": "assistant", "id": "msg_1", "status": "completed", "phase": "final_answer",
           "content": [{"type": "output_text", "text": "x", "annotations": [], "logprobs": []}]}, call("a", id="fc_1"),
          output("a", [{"type": "input_text", "text": "x"}, {"type": "input_image", "image_url": PNG}])],
         [("assistant", ["text", "tool_call"]), ("tool", ["tool_result", "image"])]),
        ([{"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}], [("assistant", ["refusal"])]),
        # Thoughts of others are taken, and are of no use.
        ([{"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAAABo=="},
          {"role": "user", "content": "x"}], [("user", ["text"])]),
        ([{"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm"}], "content": None},
          {"role": "user", "content": "x"}], [("user", ["text"])]),
        ([{"type": "reasoning", "summary": [], "encrypted_content": base64.b64encode(b'[["p",1,2]]').decode()},
          {"role": "user", "content": "x"}], [("user", ["text"])]),
    ],
)  # fmt: skip
def test_items_become_the_messages_that_they_were(items: list[Any], expected: list[tuple[str, list[str]]]) -> None:
    assert shape(messages(*items)) == expected


@pytest.mark.parametrize("signature", [None, "sig", "ü\n"])
@pytest.mark.parametrize("provider", ["anthropic", "groq"])
def test_our_thoughts_come_back_whole(signature: str | None, provider: str) -> None:
    sealed = None if signature is None else plain(signature)
    thoughts = tuple(
        MessagePart(kind=PartKind.REASONING, content=plain(text), provider=provider, signature=sealed)
        for text in ("Hm", "")
    )
    item: Any = {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": sealed_thoughts(thoughts)}
    (message,) = messages(item, {"role": "assistant", "content": "So."})
    assert message.parts[:2] == thoughts
    assert message.parts[2].kind is PartKind.TEXT


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([call("a")], "No tool output found for function call a"),
        ([call("a"), call("b"), output("a")], "function call b"),
        ([output("z")], "No tool call found for function call output with call_id z"),
        ([output("a"), call("a")], "No tool call found"),
    ],
)
def test_calls_and_outputs_belong_together(items: list[Any], said: str) -> None:
    with pytest.raises(Refusal, match=said):
        check_calls(messages(*items))


@pytest.mark.parametrize(
    "neutral",
    [
        {"stream_options": {"include_obfuscation": False}, "prompt_cache_retention": "24h"},
        {"prompt": None, "moderation": None, "context_management": []},
        {"tools": [{"type": "function", "name": "f", "parameters": {}, "defer_loading": False, "output_schema": {}}]},
        {"include": ["reasoning.encrypted_content"], "prompt_cache_options": {"mode": "implicit"}},
    ],
)
def test_what_asks_for_nothing_special_is_taken(neutral: dict[str, Any]) -> None:
    ResponseRequest.model_validate(taken_response({"model": "auto", "input": "x", **neutral}))


def kept_of(**changes: Any) -> KeptTurn | None:
    fields: dict[str, Any] = {
        "task_id": "t", "tenant": "acme", "submitted_at": 1,
        "messages": (Message(role="system", content=plain("rule")), *(Message(role="user", content=plain(f"{n}"))
                     for n in range(4))),
        "options": Options(tools=(Tool(name="f", parameters=plain("{}")),)),
        "turn": Turn(instructions=True, earlier_messages=3),
    }  # fmt: skip
    return turn_of_task(TaskSubmitted(**{**fields, **changes}))


@pytest.mark.parametrize(
    ("turn", "own"),
    [
        (Turn(instructions=True, earlier_messages=3), ["3"]),
        (Turn(instructions=False, earlier_messages=0), ["rule", "0", "1", "2", "3"]),
        (Turn(instructions=True, earlier_messages=99), []),
        (Turn(instructions=True, earlier_messages=-5), ["0", "1", "2", "3"]),
    ],
)
def test_a_turn_keeps_only_what_was_said_in_it_and_comes_back_whole(turn: Turn, own: list[str]) -> None:
    kept = kept_of(turn=turn)
    assert kept is not None
    assert [text_of(message.content) for message in kept.messages] == own
    assert loaded_turn(stored_turn(kept)) == kept


@pytest.mark.parametrize("changes", [{"turn": None}, {"turn": Turn(store=False)}])
def test_what_is_not_to_be_kept_is_not_kept(changes: dict[str, Any]) -> None:
    assert kept_of(**changes) is None


@pytest.mark.parametrize("settings", [b"", b"no json", b"[1]", b"\xff", b"{" * 10_000])
def test_settings_written_by_others_do_no_harm(settings: bytes) -> None:
    kept = kept_of(turn=Turn(settings=Content(data=settings)))
    assert kept is not None
    assert kept.settings == {}


@pytest.mark.parametrize(
    ("item_id", "task_id"),
    [
        ("msg_0199-a_0", "0199-a"), ("fc_x_12", "x"), ("rs_0199_in3", "0199"), ("fco_a_b_in0", "a_b"),
        ("msg_", None), ("other_x_0", None), ("msg_x y_0", None), ("", None),
    ],
)  # fmt: skip
def test_an_item_names_its_task(item_id: str, task_id: str | None) -> None:
    assert task_of_item(item_id) == task_id


def test_what_was_given_is_listed_and_can_be_referred_to() -> None:
    image = {"type": "input_image", "image_url": PNG, "detail": "auto"}
    given = (
        {"role": "user", "content": [{"type": "input_text", "text": "x"}, image]},
        call("a"), output("a", [{"type": "input_text", "text": "y"}, image]),
        {"role": "assistant", "content": "done"},
    )  # fmt: skip
    said = messages(*given)
    turn = PastTurn("t1", KeptTurn(turn=Turn(), instructions=None, messages=said), None)
    listed = [item for _, (item, _) in input_listing(turn)]
    assert [(item["id"], item["type"]) for item in listed] == [
        ("msg_t1_in0", "message"), ("fc_t1_in1", "function_call"), ("fco_t1_in2", "function_call_output"),
        ("msg_t1_in3", "message"),
    ]  # fmt: skip
    assert messages(*json.loads(json.dumps(listed))) == said
    referred = said_by_id(turn)
    again = messages_of(input_items([{"id": item["id"]} for item in listed], parse), referred)
    assert again == said


ITEMS = [{"id": f"i{number}"} for number in range(5)]


@pytest.mark.parametrize(
    ("query", "ids", "more"),
    [
        ({}, ["i4", "i3", "i2", "i1", "i0"], False),
        ({"order": "asc", "limit": "2"}, ["i0", "i1"], True),
        ({"limit": "2", "after": "i3"}, ["i2", "i1"], True),
        ({"order": "asc", "after": "i3"}, ["i4"], False),
        ({"order": "asc", "after": "i0", "before": "i3"}, ["i1", "i2"], False),
        ({"after": "i0"}, [], False),
    ],
)
def test_items_are_listed_page_by_page(query: dict[str, str], ids: list[str], more: bool) -> None:
    page = item_page(ITEMS, query)
    assert ([item["id"] for item in page["data"]], page["has_more"]) == (ids, more)
    assert (page["first_id"], page["last_id"]) == ((ids[0], ids[-1]) if ids else ("", ""))


@pytest.mark.parametrize(
    "query", [{"order": "up"}, {"limit": "0"}, {"limit": "x"}, {"after": "nothing"}, {"before": "nothing"}]
)
def test_a_page_that_makes_no_sense_is_refused(query: dict[str, str]) -> None:
    with pytest.raises(Refusal):
        item_page(ITEMS, query)


@pytest.mark.parametrize(("text", "number"), [(None, None), ("", None), ("0", 0), ("17", 17)])
def test_the_last_event_is_a_number(text: str | None, number: int | None) -> None:
    assert starting_after({} if text is None else {"starting_after": text}) == number


@pytest.mark.parametrize("text", ["-1", "x", "1.5", "1" * 10])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(Refusal):
        starting_after({"starting_after": text})
