"""What agents send beside text, and what models answer beside it: through every client, against the simulator."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
from headrace_models.answer import SpokenPiece
from headrace_models.anthropic import Anthropic
from headrace_models.call import Call
from headrace_models.conversation import (
    AnswerSchema,
    ChatMessage,
    MediaPart,
    Part,
    ReasoningPart,
    TextPart,
    ToolCallPart,
    ToolResultPart,
    ToolSelection,
    ToolSpec,
)
from headrace_models.dialects import dialect_for
from headrace_models.errors import RetrySameProvider
from headrace_models.ollama import OllamaNode
from headrace_models.openai_compatible import OpenAICompatible
from headrace_models.ports import ChatRequest, ChatResult, Provider
from headrace_models.simulator import Simulator, SimulatorConfig, Speed
from headrace_models.simulator.faults import Fault, FaultKind
from headrace_models.simulator.tool_use import CALL_MARK
from headrace_models.structured import ask, misfit
from pydantic import SecretStr

MODELS = {"ollama": "phi3:3.8b", "groq": "openai/gpt-oss-120b", "anthropic": "claude-sonnet-4-6"}
THINKERS = MODELS | {"ollama": "gpt-oss:20b"}
WEATHER = ToolSpec(
    "get_weather", "The weather of a city.",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)  # fmt: skip
CLOCK = ToolSpec("read_clock", "The time.")
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 2},
        "age": {"type": "integer", "minimum": 18, "maximum": 120},
        "role": {"enum": ["author", "editor"]},
        "pets": {"type": "array", "items": {"$ref": "#/$defs/pet"}, "minItems": 1, "maxItems": 3},
        "born": {"type": ["string", "null"], "format": "date"},
    },
    "required": ["name", "age", "role", "pets", "born"],
    "additionalProperties": False,
    "$defs": {"pet": {"type": "object", "properties": {"kind": {"type": "string"}}, "required": ["kind"]}},
}
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(64))


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    nodes = {"workstation": ("phi3:3.8b", "gpt-oss:20b")}
    async with Simulator(SimulatorConfig(speed=Speed(None), nodes=nodes)) as running:
        yield running


@pytest.fixture(params=MODELS)
async def talker(request: pytest.FixtureRequest, simulator: Simulator) -> AsyncIterator[Provider]:
    makers: dict[str, Callable[[], Provider]] = {
        "ollama": lambda: OllamaNode("workstation", simulator.ollama_url("workstation")),
        "groq": lambda: OpenAICompatible("groq", simulator.groq_url, SecretStr("k"), dialect=dialect_for("openai", "")),
        "anthropic": lambda: Anthropic(SecretStr("k"), base_url=simulator.anthropic_url),
    }
    made = makers[request.param]()
    await made.status()
    yield made
    await made.close()


def _request(provider: Provider, text: str, **more: Any) -> ChatRequest:
    return ChatRequest(MODELS[provider.provider], (ChatMessage("user", text),), timeout_seconds=10, **more)


class Heard:
    """What comes while a model answers."""

    def __init__(self) -> None:
        self.text = ""
        self.pieces: list[SpokenPiece] = []

    async def ask(self, provider: Provider, request: ChatRequest) -> ChatResult:
        return await provider.chat(request, self._hear, self.pieces.append)

    def _hear(self, piece: str) -> None:
        self.text += piece

    def calls(self) -> list[tuple[str, str, str]]:
        """Id, name and arguments of the calls, put together from the pieces."""
        found: dict[int, list[str]] = {}
        for piece in self.pieces:
            if piece.kind == "tool_call":
                call = found.setdefault(piece.part, [piece.call_id, piece.name, ""])
                call[2] += piece.text
        return [(call[0], call[1], call[2]) for call in found.values()]


def _calls(result: ChatResult) -> list[tuple[str, str, str]]:
    return [(call.call_id, call.name, call.arguments) for call in result.choices[0].calls]


async def test_a_tool_is_called_answered_and_its_result_used(talker: Provider) -> None:
    request = _request(talker, "What is the weather in Lisbon?", tools=(WEATHER, CLOCK))
    heard = Heard()
    first = await heard.ask(talker, request)
    assert first.finish_reason == "tool_calls"
    ((call_id, name, arguments),) = _calls(first)
    assert (name, json.loads(arguments)) == ("get_weather", {"city": "Lisbon"})
    assert heard.calls() == _calls(first)
    said: tuple[Part, ...] = first.choices[0].parts
    messages = (*request.messages, ChatMessage("assistant", parts=said),
                ChatMessage("tool", parts=(ToolResultPart(call_id, "21 degrees, sunny"),)))  # fmt: skip
    second = await Heard().ask(talker, replace(request, messages=messages))
    assert second.finish_reason == "stop"
    assert "21 degrees, sunny" in second.text


async def test_sixteen_calls_at_once_come_whole_and_in_order(talker: Provider) -> None:
    wanted = [("get_weather", {"city": f'City {number} "ü" \\ {{}}', "n": list(range(number))}) for number in range(16)]
    script = "\n".join(f"{CALL_MARK} {name} {json.dumps(arguments, ensure_ascii=False)}" for name, arguments in wanted)
    heard = Heard()
    result = await heard.ask(talker, _request(talker, script, tools=(WEATHER,)))
    assert [(name, json.loads(arguments)) for _, name, arguments in _calls(result)] == wanted
    assert heard.calls() == _calls(result)
    assert len({call_id for call_id, _, _ in _calls(result)}) == 16
    alone = await Heard().ask(talker, _request(talker, script, tools=(WEATHER,), parallel_tool_calls=False))
    assert [(name, json.loads(arguments)) for _, name, arguments in _calls(alone)] == wanted[:1]


@pytest.mark.parametrize("fault", [FaultKind.DISCONNECT, FaultKind.STREAM_ERROR, FaultKind.BROKEN_JSON])
async def test_half_a_call_is_never_a_success(talker: Provider, simulator: Simulator, fault: FaultKind) -> None:
    script = f"{CALL_MARK} get_weather " + json.dumps({"city": "Lisbon", "days": list(range(50))})
    simulator.faults.add(talker.provider, Fault(fault), 1)
    with pytest.raises(RetrySameProvider):
        await Heard().ask(talker, _request(talker, script, tools=(WEATHER,)))
    whole = await Heard().ask(talker, _request(talker, script, tools=(WEATHER,)))
    assert len(_calls(whole)) == 1


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        (ToolSelection("none"), []),
        (ToolSelection("required"), ["get_weather"]),
        (ToolSelection("required", ("read_clock",)), ["read_clock"]),
        (ToolSelection("auto"), []),
        (None, []),
    ],
)
async def test_the_tool_choice_is_kept(talker: Provider, choice: ToolSelection | None, names: list[str]) -> None:
    request = _request(talker, "Good morning to you", tools=(WEATHER, CLOCK), tool_choice=choice)
    result = await Heard().ask(talker, request)
    assert [call.name for choice in result.choices for call in choice.calls] == names


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("read_clock", "{}"),
        ("", "{}"),
        ("get_weather", '{"city": "Lis'),
        ("get_weather", '["Lisbon"]'),
        ("get_weather", '"Lisbon"'),
        ("get_weather", "{} {}"),
    ],
)
async def test_a_call_that_nobody_can_make_is_no_success(name: str, arguments: str) -> None:
    call = Call("p", ChatRequest("m", (ChatMessage("user", "x"),), timeout_seconds=1, tools=(WEATHER,)), lambda _: None)
    await call.hear_call(0, '{"city": "Lisbon"}', call_id="a", name="get_weather")
    await call.hear_call(1, arguments, call_id="b", name=name)
    await call.finish("tool_calls")
    with pytest.raises(RetrySameProvider) as caught:
        call.result(model="m", simulated=True, request_id="")
    assert caught.value.code == "invalid_tool_call"


async def test_what_the_limit_cuts_off_is_left_out() -> None:
    call = Call("p", ChatRequest("m", (ChatMessage("user", "x"),), timeout_seconds=1, tools=(WEATHER,)), lambda _: None)
    await call.hear_call(0, '{"city": "Lisbon"}', call_id="a", name="get_weather")
    await call.hear_call(1, '{"city": "Par', call_id="b", name="get_weather")
    await call.finish("length")
    result = call.result(model="m", simulated=True, request_id="")
    assert result.finish_reason == "length"
    assert [made.call_id for made in result.choices[0].calls] == ["a"]


@pytest.mark.parametrize("strict", [True, False])
async def test_an_answer_fits_its_schema(talker: Provider, strict: bool) -> None:
    wanted = AnswerSchema(PERSON, "person", strict=strict)
    heard = Heard()
    request = _request(talker, "Describe 'Ada Lovelace', 36, author", json=True, schema=wanted)
    result = await ask(talker, request, heard._hear, heard.pieces.append)
    if strict or talker.provider != "anthropic":
        assert misfit(result.text, wanted) == ""
    assert heard.text == result.text
    assert json.loads(result.text)


async def test_images_are_seen_and_counted(talker: Provider, simulator: Simulator) -> None:
    parts = (TextPart("What is on these?"), *(MediaPart(kind="image", media_type="image/png", data=PNG),) * 2)
    request = ChatRequest(MODELS[talker.provider], (ChatMessage("user", parts=parts),), timeout_seconds=10)
    result = await Heard().ask(talker, request)
    assert "2 images seen" in result.text
    assert result.usage.input_tokens > 2_000
    if talker.provider == "groq":
        assert result.usage.image_tokens == 2_000
    (sent,) = simulator.evidence.of(talker.provider)
    assert sent.texts[0].count("iVBORw0KGgo") == 2, "the bytes have arrived"


async def test_reasoning_is_told_and_given_back_to_who_made_it(talker: Provider) -> None:
    heard = Heard()
    request = _request(talker, "Think about Kafka", reasoning_effort="low")
    request = replace(request, model=THINKERS[talker.provider])
    result = await heard.ask(talker, request)
    thought = [part for part in result.choices[0].parts if isinstance(part, ReasoningPart)]
    assert [part.provider for part in thought] == [talker.provider]
    assert "".join(piece.text for piece in heard.pieces if piece.kind == "reasoning") == thought[0].text
    assert result.choices[0].text == result.text == heard.text
    assert 0 < result.usage.reasoning_tokens <= result.usage.output_tokens or talker.provider != "groq"
    for given in (result.choices[0].parts, (replace(thought[0], provider="another", signature="s"), TextPart("x"))):
        messages = (*request.messages, ChatMessage("assistant", parts=given), ChatMessage("user", "More"))
        assert (await heard.ask(talker, replace(request, messages=messages))).text


async def test_several_answers_with_their_log_probabilities(simulator: Simulator) -> None:
    provider = OpenAICompatible("groq", simulator.groq_url, SecretStr("k"), dialect=dialect_for("openai", ""))
    heard = Heard()
    result = await heard.ask(provider, _request(provider, "Say something", choices=3, top_logprobs=0))
    await provider.close()
    assert [choice.index for choice in result.choices] == [0, 1, 2]
    assert len({choice.text for choice in result.choices}) == 3
    assert heard.text == result.choices[0].text == result.text
    for choice in result.choices[1:]:
        assert "".join(piece.text for piece in heard.pieces if piece.choice == choice.index) == choice.text
    for choice in result.choices:
        assert "".join(token["token"] for token in json.loads(choice.logprobs)) == choice.text


async def test_calls_of_other_providers_can_be_continued(talker: Provider) -> None:
    """Ids and results come back whoever made them: routing may have chosen another provider meanwhile."""
    messages = (
        ChatMessage("user", "What is the weather in Lisbon?"),
        ChatMessage("assistant", parts=(
            ReasoningPart("hm", "another", "sig"), TextPart("I look."),
            ToolCallPart("call:1/x", "get_weather", '{"city": "Lisbon"}'), ToolCallPart("call:2/x", "read_clock", "{}"),
        )),
        ChatMessage("tool", parts=(ToolResultPart("call:1/x", "rain"), ToolResultPart("call:2/x", "it broke", True))),
    )  # fmt: skip
    request = ChatRequest(MODELS[talker.provider], messages, timeout_seconds=10, tools=(WEATHER, CLOCK))
    result = await Heard().ask(talker, request)
    assert "rain" in result.text
    assert "it broke" in result.text
