"""Streams of Anthropic's API: whatever pieces come, and however they are cut, the whole is the answer or an error."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from headrace_contracts.content import plain
from headrace_contracts.events import AnswerChoice, Citation, MessagePart, PartKind, Usage
from headrace_intake.decide.anthropic.answers import message
from headrace_intake.decide.anthropic.stream import Event, MessageEvents, NotTheAnswer
from headrace_intake.decide.replies import Delta, HeardPiece
from headrace_intake.decide.views import TaskView
from hypothesis import given
from hypothesis import strategies as st

VIEW = TaskView(task_id="t-1", tenant="acme", submitted_at=1)


def text(said: str) -> MessagePart:
    return MessagePart(kind=PartKind.TEXT, content=plain(said))


def thought(said: str | None, signature: str = "s", provider: str = "anthropic") -> MessagePart:
    return MessagePart(
        kind=PartKind.REASONING, content=None if said is None else plain(said), provider=provider,
        signature=plain(signature) if signature else None,
    )  # fmt: skip


def call(number: int, arguments: Any) -> MessagePart:
    return MessagePart(kind=PartKind.TOOL_CALL, call_id=f"c{number}", name="f", content=plain(json.dumps(arguments)))


def end(*parts: MessagePart, finish: str = "stop", **more: Any) -> TaskView:
    choice = AnswerChoice(parts=parts, finish_reason=finish, **more)
    tokens = Usage(input_tokens=100, output_tokens=9, cached_input_tokens=50, cache_write_5m_tokens=5,
                   cache_write_1h_tokens=15, reasoning_tokens=4)  # fmt: skip
    return replace(VIEW, status="succeeded", choices=(choice,), provider="anthropic", model="claude", usage=tokens)


def spoken(parts: Sequence[MessagePart], cut: int) -> list[Delta]:
    """The parts as pieces of at most `cut` characters."""
    deltas: list[Delta] = []
    numbers = dict.fromkeys(PartKind, 0)
    for part in parts:
        number, said = numbers[part.kind], "" if part.content is None else part.content.data.decode()
        numbers[part.kind] += 1
        signature = "" if part.signature is None else part.signature.data.decode()
        pieces = [said[at : at + cut] for at in range(0, len(said), cut)]
        if part.kind is PartKind.TEXT:
            deltas += [Delta(piece, 1) for piece in pieces]
            continue
        heard = [
            HeardPiece(
                part.kind, 0, number, piece, None if at else part.call_id, None if at else part.name, part.provider
            )
            for at, piece in enumerate(pieces)
        ]
        if signature:
            sealed = part.content is None
            heard.append(HeardPiece(part.kind, 0, number, "", None, None, part.provider, signature, sealed))
        deltas += [Delta("", 1, (piece,)) for piece in heard]
    return deltas


def collected(events: Sequence[Event]) -> dict[str, Any]:
    """The message, put together as a client does, that expects one block after the other."""
    found: dict[str, Any] = {"content": []}
    arguments = ""
    opened = False
    for event in events:
        match event["type"]:
            case "message_start":
                assert not found["content"]
                found |= {name: value for name, value in event["message"].items() if name != "content"}
            case "content_block_start":
                assert (opened, event["index"]) == (False, len(found["content"]))
                opened, arguments = True, ""
                found["content"].append(dict(event["content_block"]))
            case "content_block_delta":
                assert (opened, event["index"]) == (True, len(found["content"]) - 1)
                block, delta = found["content"][-1], event["delta"]
                match delta["type"]:
                    case "text_delta":
                        block["text"] += delta["text"]
                    case "thinking_delta":
                        block["thinking"] += delta["thinking"]
                    case "signature_delta":
                        assert not block["signature"], "clients replace it"
                        block["signature"] = delta["signature"]
                    case "input_json_delta":
                        arguments += delta["partial_json"]
                    case "citations_delta":
                        block.setdefault("citations", []).append(delta["citation"])
            case "content_block_stop":
                assert opened
                opened = False
                if found["content"][-1]["type"] == "tool_use":
                    found["content"][-1]["input"] = json.loads(arguments)
            case "message_delta":
                assert not opened
                found |= event["delta"] | {"usage": event["usage"]}
    return found


def streamed(ended: TaskView, deltas: Sequence[Delta], *, shows_thoughts: bool = True) -> dict[str, Any]:
    events = MessageEvents(VIEW, "auto", 7, shows_thoughts=shows_thoughts)
    sent = events.opening()
    for delta in deltas:
        sent += events.update(delta)
    return collected([*sent, *events.ending(ended)])


texts = st.text(min_size=1, max_size=12)
values = st.dictionaries(texts, st.one_of(texts, st.integers(), st.lists(texts, max_size=2)), max_size=3)
parts_of_answers = st.lists(
    st.one_of(
        texts.map(text),
        st.builds(thought, st.one_of(st.none(), st.just(""), texts), st.sampled_from(["s", "longer=="])),
        st.builds(call, st.integers(0, 99), values),
    ),
    max_size=6,
)


def merged(parts: Sequence[MessagePart]) -> list[MessagePart]:
    """With two texts in a row as one: a stream does not tell them apart."""
    found: list[MessagePart] = []
    for part in parts:
        last = found[-1] if found else None
        if (
            part.kind is PartKind.TEXT
            and last is not None
            and last.kind is PartKind.TEXT
            and last.content
            and part.content
        ):
            found[-1] = text((last.content.data + part.content.data).decode())
        else:
            found.append(part)
    return found


@given(parts=parts_of_answers, cut=st.integers(1, 9), heard=st.integers(0, 60), shows=st.booleans())
def test_a_stream_is_the_whole_answer_however_much_of_it_was_heard(
    parts: list[MessagePart], cut: int, heard: int, shows: bool
) -> None:
    parts = merged(parts)
    ended = end(*parts)
    deltas = spoken(parts, cut)[:heard]
    found, whole = streamed(ended, deltas, shows_thoughts=shows), message(ended, shows_thoughts=shows)
    if heard >= len(spoken(parts, cut)):
        assert found["content"] == whole["content"]
    else:
        # What was missed comes at the end, so texts may be in two blocks; nothing is lost, doubled or changed.
        assert said_by(found["content"]) == said_by(whole["content"])
    assert (found["stop_reason"], found["id"]) == (whole["stop_reason"], whole["id"])


def said_by(blocks: list[dict[str, Any]]) -> tuple[str, list[Any], list[Any]]:
    joined = "".join(block["text"] for block in blocks if block["type"] == "text")
    calls = [(block["id"], block["input"]) for block in blocks if block["type"] == "tool_use"]
    thoughts = [block.get("thinking", block.get("data")) for block in blocks if "thinking" in block["type"]]
    return joined, calls, thoughts


@given(arguments=st.lists(values, min_size=1, max_size=16), cut=st.integers(1, 5), heard=st.integers(0, 400))
def test_no_prefix_of_a_stream_holds_half_a_call(arguments: list[Any], cut: int, heard: int) -> None:
    calls = [call(number, each) for number, each in enumerate(arguments)]
    events = MessageEvents(VIEW, "auto", 7, shows_thoughts=True)
    sent = events.opening()
    for delta in spoken(calls, cut)[:heard]:
        sent += events.update(delta)
    whole = [block["input"] for block in collected(sent)["content"]]
    assert whole == arguments[: len(whole)]


def test_calls_in_turns_come_one_after_the_other() -> None:
    first, second = call(0, {"city": "Lisbon {"}), call(1, {"deep": {"a": ["}", 1]}})
    one, two = spoken([first], 3), [
        Delta("", 1, tuple(replace(piece, part=1) for piece in delta.pieces)) for delta in spoken([second], 3)
    ]  # fmt: skip
    woven = [delta for pair in zip(one, two, strict=False) for delta in pair] + one[len(two) :] + two[len(one) :]
    found = streamed(end(first, second, finish="tool_calls"), woven)
    inputs = {block["id"]: block["input"] for block in found["content"]}
    assert inputs == {"c0": {"city": "Lisbon {"}, "c1": {"deep": {"a": ["}", 1]}}}
    assert found["stop_reason"] == "tool_use"


@pytest.mark.parametrize("cut_at", [1, 5, 10])
def test_a_call_that_the_limit_cuts_off_is_none(cut_at: int) -> None:
    deltas = [Delta("Well", 1), *spoken([call(0, {"city": "Lisbon"})], 3)[: cut_at // 3]]
    found = streamed(end(text("Well"), finish="length"), deltas)
    assert found["content"] == [{"type": "text", "text": "Well"}]
    assert found["stop_reason"] == "max_tokens"


@pytest.mark.parametrize(
    "parts",
    [
        [text("Other")],
        [text("Wel")],
        [thought("x"), text("Well")],
        [text("Well"), call(0, {"b": 1})],
        [text("Well")],
        [],
    ],
)
def test_another_answer_than_the_one_that_was_begun_is_an_error(parts: list[MessagePart]) -> None:
    with pytest.raises(NotTheAnswer):
        streamed(end(*parts), spoken([thought("hm"), text("Well"), call(0, {"a": 1})], 4))


def test_an_attempt_that_breaks_in_a_call_leaves_nothing_behind() -> None:
    events = MessageEvents(VIEW, "auto", 7, shows_thoughts=True)
    sent = events.opening()
    for delta in spoken([call(0, {"city": "Lisbon"})], 3)[:3]:
        sent += events.update(delta)
    events.restarted()
    assert not events.has_sent
    for delta in spoken([call(1, {"city": "Porto"})], 3):
        sent += events.update(delta)
    found = collected([*sent, *events.ending(end(call(1, {"city": "Porto"}), finish="tool_calls"))])
    assert [(block["id"], block["input"]) for block in found["content"]] == [("c1", {"city": "Porto"})]


@pytest.mark.parametrize(
    ("finish", "stop", "status", "told"),
    [
        ("stop", None, "succeeded", ("end_turn", None)),
        ("stop", "END", "succeeded", ("stop_sequence", "END")),
        ("length", None, "succeeded", ("max_tokens", None)),
        ("tool_calls", None, "succeeded", ("tool_use", None)),
        ("refusal", None, "refused", ("refusal", None)),
        ("content_filter", None, "succeeded", ("refusal", None)),
    ],
)
def test_why_it_ended(finish: str, stop: str | None, status: str, told: tuple[str, str | None]) -> None:
    ended = replace(end(text("x"), finish=finish, stop_sequence=stop and plain(stop)), status=status)
    whole, found = message(ended), streamed(ended, [Delta("x", 1)])
    assert (whole["stop_reason"], whole["stop_sequence"]) == told
    assert (found["stop_reason"], found["stop_sequence"]) == told


def test_a_refusal_that_was_streamed_is_one() -> None:
    refusal = MessagePart(kind=PartKind.REFUSAL, content=plain("I cannot."))
    found = streamed(replace(end(refusal, finish="refusal"), status="refused"), [Delta("I can", 1)])
    assert (found["content"], found["stop_reason"]) == ([{"type": "text", "text": "I cannot."}], "refusal")


def test_tokens_are_counted_as_anthropic_does() -> None:
    whole, found = message(end(text("x"))), streamed(end(text("x")), [])
    for told in (whole["usage"], found["usage"]):
        assert (told["input_tokens"], told["output_tokens"]) == (30, 9)
        assert (told["cache_read_input_tokens"], told["cache_creation_input_tokens"]) == (50, 20)
        assert told["output_tokens_details"] == {"thinking_tokens": 4}
    assert whole["usage"]["cache_creation"] == {"ephemeral_5m_input_tokens": 5, "ephemeral_1h_input_tokens": 15}


@pytest.mark.parametrize("heard", [[], [Delta("Kafka", 1)]])
def test_sources_are_told(heard: list[Delta]) -> None:
    page = Citation(url=plain("https://a.example"), title=plain("A"), text=plain("K"))
    place = Citation(text=plain("K"), title=plain("Doc"), start=0, end=1)
    ended = end(text("Kafka"), citations=(page, place))
    for content in (message(ended)["content"], streamed(ended, heard)["content"]):
        assert [each["type"] for each in content[-1]["citations"]] == ["web_search_result_location", "char_location"]


def test_thoughts_of_others_say_whose_they_are() -> None:
    parts = [thought("hm", "", "ollama"), text("x")]
    found = streamed(end(*parts), spoken(parts, 9))
    assert found["content"] == message(end(*parts))["content"]
    assert found["content"][0]["signature"] == "headrace:ollama:"
