"""What only some providers tell or take, in their requests and in the records: thoughts, stop texts, cache marks."""

from __future__ import annotations

from typing import Any

import pytest
from headrace_contracts import events
from headrace_contracts.content import plain, text_of
from headrace_contracts.events import Message, MessagePart, PartKind, Privacy
from headrace_models.answer import SpokenPiece, WholeAnswer
from headrace_models.anthropic import Anthropic
from headrace_models.anthropic_requests import body_of
from headrace_models.conversation import ChatMessage, ReasoningPart, TextPart
from headrace_models.ports import ChatRequest, ChatResult
from headrace_models.simulator import Simulator, SimulatorConfig, Speed
from headrace_models.worker.answers import choices_of, piece_of
from headrace_models.worker.requests import chat_request
from pydantic import SecretStr

THOUGHTS = [
    ({"content": plain("hm"), "signature": plain("s")}, {"type": "thinking", "thinking": "hm", "signature": "s"}),
    ({"content": plain(""), "signature": plain("s")}, {"type": "thinking", "thinking": "", "signature": "s"}),
    ({"content": None, "signature": plain("all")}, {"type": "redacted_thinking", "data": "all"}),
]


def asked(parts: tuple[MessagePart, ...], options: events.Options | None = None, **more: Any) -> ChatRequest:
    attempt = events.AttemptRequested(
        attempt_id="t/1", task_id="t", tenant="a", number=1, provider="anthropic", model="claude-sonnet-4-6",
        messages=(Message(role="user", content=plain("Hi")), Message(role="assistant", content=plain(""), parts=parts),
                  Message(role="user", content=plain("Go on"))),
        options=options, privacy=Privacy.PUBLIC, requested_at=1,
        home_partition=0, sampling=events.Sampling(), lane=events.Lane.BATCH, **more,
    )  # fmt: skip
    return chat_request(attempt, 9, first_token_seconds=9, between_tokens_seconds=9)


@pytest.mark.parametrize(("thought", "block"), THOUGHTS)
def test_a_thought_goes_back_as_it_came_to_its_maker_only(thought: dict[str, Any], block: dict[str, Any]) -> None:
    said = MessagePart(kind=PartKind.TEXT, content=plain("Hello"))
    for provider, expected in (("anthropic", [block]), ("groq", []), (None, [])):
        part = MessagePart(kind=PartKind.REASONING, provider=provider, **thought)
        (turn,) = [turn for turn in body_of(asked((part, said)))["messages"] if turn["role"] == "assistant"]
        content = turn["content"] if isinstance(turn["content"], list) else [{"type": "text", "text": turn["content"]}]
        assert content == [*expected, {"type": "text", "text": "Hello"}]


@pytest.mark.parametrize(("thought", "block"), THOUGHTS)
def test_a_thought_is_written_as_it_is_read(thought: dict[str, Any], block: dict[str, Any]) -> None:
    request = asked((MessagePart(kind=PartKind.REASONING, provider="anthropic", **thought),))
    (part,) = request.messages[1].parts
    assert isinstance(part, ReasoningPart)
    (choice,) = choices_of([WholeAnswer(0, (part, TextPart("x")), "stop")])
    assert choice.parts[0] == MessagePart(kind=PartKind.REASONING, provider="anthropic", **thought)


@pytest.mark.parametrize(("seconds", "mark"), [(300, {}), (3_600, {"ttl": "1h"}), (None, None)])
def test_tools_and_calls_carry_cache_marks(seconds: int | None, mark: dict[str, str] | None) -> None:
    call = MessagePart(kind=PartKind.TOOL_CALL, call_id="c", name="f", content=plain("{}"), cache_seconds=seconds)
    body = body_of(asked((call,), events.Options(tools=(events.Tool(name="f", cache_seconds=seconds),))))
    expected = None if mark is None else {"type": "ephemeral", **mark}
    assert body["tools"][0].get("cache_control") == expected
    assert body["messages"][1]["content"][0].get("cache_control") == expected


async def answer(text: str, **more: Any) -> tuple[ChatResult, list[SpokenPiece]]:
    pieces: list[SpokenPiece] = []
    async with Simulator(SimulatorConfig(speed=Speed(None))) as simulator:
        client = Anthropic(SecretStr("k"), base_url=simulator.anthropic_url)
        request = ChatRequest("claude-sonnet-4-6", (ChatMessage("user", text),), timeout_seconds=10, **more)
        result = await client.chat(request, lambda _text: None, lambda piece: pieces.append(piece))
        await client.close()
    return result, pieces


@pytest.mark.parametrize(("stops", "told"), [((" ",), None), (("e",), "e"), (("never said",), None), ((), None)])
async def test_the_stop_text_that_ended_an_answer_is_told(stops: tuple[str, ...], told: str | None) -> None:
    result, _ = await answer("Tell me about Kafka", stop=stops)
    found = choices_of(result.choices)
    stop = found[0].stop_sequence if found else None
    assert (None if stop is None else text_of(stop)) == told


async def test_a_signature_comes_with_its_thought_and_before_the_text() -> None:
    result, pieces = await answer("Think about Kafka", reasoning_effort="low")
    thought = result.choices[0].parts[0]
    assert isinstance(thought, ReasoningPart)
    assert {piece.kind for piece in pieces} == {"reasoning"}
    assert {piece.provider for piece in pieces} == {"anthropic"}
    written = [piece_of(piece) for piece in pieces]
    signature = "".join(text_of(piece.signature) for piece in written if piece.signature is not None)
    assert (signature, written[-1].signature is not None) == (thought.signature, True)
