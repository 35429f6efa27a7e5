"""The loop of model and tools, with a model that says what the test wants."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, assert_type

import pytest
from headrace import (
    AnswerChoice,
    Declined,
    Failure,
    Image,
    Message,
    NotYet,
    OverBudget,
    Piece,
    Prompt,
    RefusalText,
    Task,
    TaskOptions,
    Text,
    Tool,
    ToolCall,
    ToolRun,
    ToolStep,
    TooManyRounds,
    Usage,
)
from headrace import ToolResult as Result
from headrace.asking import Asking
from headrace.messages import Part, conversation_of
from headrace.pieces import OnPiece, told
from pydantic import BaseModel

Said = Callable[[list[Message]], list[Part]]


class ScriptedModel(Asking):
    """A client whose tasks end with what is scripted, one round after another; the last one for ever."""

    def __init__(self, *rounds: list[Part] | Said, **fields: Any) -> None:
        self.rounds = list(rounds)
        self.asked: list[tuple[list[Message], TaskOptions]] = []
        self.keys: list[str | None] = []
        self.fields: dict[str, Any] = {"status": "succeeded", **fields}

    async def ended(
        self, prompt: Prompt, options: TaskOptions, *, timeout: float | None, idempotency_key: str | None,
        on_piece: OnPiece | None,
    ) -> Task:  # fmt: skip
        said = [message for message in conversation_of(prompt) if isinstance(message, Message)]
        self.asked.append((said, options))
        self.keys.append(idempotency_key)
        script = self.rounds.pop(0) if len(self.rounds) > 1 else self.rounds[0]
        parts = script if isinstance(script, list) else script(said)
        message = Message("assistant", tuple(parts))
        if on_piece is not None:
            await told(on_piece(Piece(message.text, content=message.text)))
        return Task(
            id=f"t-{len(self.asked)}", answer=message.text, choices=(AnswerChoice(message=message),),
            cost_nanodollars=1_000_000_000, usage=Usage(input_tokens=3), **self.fields,
        )  # fmt: skip


def call(name: str, call_id: str = "c1", **arguments: Any) -> ToolCall:
    return ToolCall(call_id, name, json.dumps(arguments))


def results_in(messages: list[Message]) -> dict[str, Result]:
    return {part.call_id: part for message in messages for part in message.parts if isinstance(part, Result)}


async def weather(city: str) -> str:
    """The weather of a city."""
    return f"sunny in {city}"


def clock() -> dict[str, int]:
    """The time."""
    return {"hour": 12}


async def test_tools_are_called_until_there_is_an_answer() -> None:
    model = ScriptedModel(
        [Text("I look. "), call("weather", "c1", city="Lisbon"), call("clock", "c2")],
        [call("weather", "c3", city="Porto")],
        [Text("All sunny.")],
    )
    pieces: list[str] = []
    steps: list[int] = []
    run = await model.run_tools(
        "What is the weather?", tools=[weather, clock], role="research", on_step=lambda step: steps.append(step.number),
        on_piece=lambda piece: pieces.append(piece.text), idempotency_key="mine",
    )  # fmt: skip
    assert (run.answer, run.parsed, run.task.id) == ("All sunny.", None, "t-3")
    assert [[(one.name, result.text) for one, result in zip(step.calls, step.results, strict=True)]
            for step in run.steps] == [[("weather", "sunny in Lisbon"), ("clock", '{"hour":12}')],
                                       [("weather", "sunny in Porto")]]  # fmt: skip
    assert (steps, pieces) == ([1, 2], ["I look. ", "", "All sunny."])
    assert [message.role for message in run.messages] == ["user", "assistant", "tool", "tool", "assistant", "tool",
                                                          "assistant"]  # fmt: skip
    assert (run.cost_usd, run.usage.input_tokens, len(run.tasks)) == (Decimal(3), 9, 3)
    assert model.keys == ["mine/1", "mine/2", "mine/3"]
    sessions = {options.get("session") for _, options in model.asked}
    assert len(sessions) == 1
    assert sessions != {None}, "the rounds keep their order"
    assert all(options.get("role") == "research" for _, options in model.asked)


@pytest.mark.parametrize("number", [2, 7, 16])
async def test_async_tools_run_at_the_same_time_and_others_one_by_one(number: int) -> None:
    there = 0
    all_there = asyncio.Event()
    alone = threading.Lock()

    async def meet(place: int) -> int:
        nonlocal there
        there += 1
        if there == number:
            all_there.set()
        async with asyncio.timeout(30):
            await all_there.wait()
        return place

    def work(place: int) -> int:
        assert alone.acquire(blocking=False), "two at once"
        time.sleep(0.002)
        alone.release()
        return -place

    calls: list[Part] = [call("meet", f"m{place}", place=place) for place in range(number)]
    calls += [call("work", f"w{place}", place=place) for place in range(number)]
    run = await ScriptedModel(calls, [Text("done")]).run_tools("Go", tools=[meet, work])
    texts = [result.text for result in run.steps[0].results]
    assert texts == [str(place) for place in range(number)] + [str(-place) for place in range(number)]


async def broken(what: str) -> str:
    raise LookupError(f"no {what} here")


async def slow() -> str:
    await asyncio.sleep(60)
    return "late"


@pytest.mark.parametrize(
    ("made", "told_of"),
    [
        (call("broken", what="file"), "LookupError: no file here"),
        (call("broken"), "what: Field required"),
        (call("broken", what=["x"]), "what: Input should be a valid string"),
        (call("nothing"), "there is no tool nothing; there are broken"),
        (ToolCall("c1", "broken", '{"what": '), "Expecting value"),
        (ToolCall("c1", "broken", "[1]"), "not a JSON object"),
    ],
)
async def test_what_goes_wrong_goes_back_to_the_model(made: ToolCall, told_of: str) -> None:
    def answer(messages: list[Message]) -> list[Part]:
        result = results_in(messages)[made.id]
        assert result.is_error
        return [Text(result.text)]

    run = await ScriptedModel([made], answer).run_tools("Go", tools=[broken])
    assert told_of in run.answer


@pytest.mark.parametrize(
    ("returned", "text", "images"),
    [
        ("as it is", "as it is", 0), (None, "null", 0), ([1, "a"], '[1,"a"]', 0), (Decimal("1.5"), '"1.5"', 0),
        (datetime(2027, 1, 1, tzinfo=UTC), '"2027-01-01T00:00:00Z"', 0), (Image(b"x", "image/png"), "", 1),
        (["seen", Image(b"x", "image/png"), Image(b"y", "image/png")], "seen", 2),
    ],
)  # fmt: skip
async def test_what_a_tool_returns_is_told_as_text(returned: Any, text: str, images: int) -> None:
    def look() -> Any:
        return returned

    run = await ScriptedModel([call("look")], [Text("ok")]).run_tools("Go", tools=[look])
    (result,) = run.steps[0].results
    assert (result.text, len(result.images), result.is_error) == (text, images, False)


@pytest.mark.parametrize("most", [1, 2, 5])
async def test_a_model_that_never_answers_is_stopped(most: int) -> None:
    model = ScriptedModel([call("clock")])
    with pytest.raises(TooManyRounds, match="most_rounds") as stopped:
        await model.run_tools("Go", tools=[clock], most_rounds=most)
    assert len(model.asked) == most
    assert [step.number for step in stopped.value.steps] == list(range(1, most + 1))


class Finding(BaseModel):
    """What is wanted in the end."""

    city: str


async def test_the_last_answer_has_the_form_that_was_asked_for() -> None:
    model = ScriptedModel([call("clock")], [Text('{"city": "Lisbon"}')])
    run = await model.run_tools("Go", tools=[clock], schema=Finding)
    assert_type(run, ToolRun[Finding])
    assert run.parsed.city == "Lisbon"
    assert all(options["response_format"] is not None for _, options in model.asked)
    assert_type(await model.ask("Go", schema=Finding), Finding)
    assert_type(await model.ask("Go", schema={"required": ["city"]}), Any)
    assert_type(await model.ask("Go"), Task)
    with pytest.raises(Declined):
        await ScriptedModel([RefusalText("no")]).run_tools("Go", tools=[clock], schema=Finding)


async def test_budget_deadline_and_choice_are_for_the_whole_run() -> None:
    model = ScriptedModel([call("clock")], [call("clock", "c2")], [Text("done")])
    await model.run_tools("Go", tools=[clock], tool_choice="clock", budget=1.5, deadline=60, session="mine")
    asked = [options for _, options in model.asked]
    assert [options["tool_choice"] for options in asked] == ["clock", None, None]
    assert [options["budget"] for options in asked] == [1.5, Decimal("0.5"), Decimal(0)]
    assert len({options["deadline"] for options in asked}) == 1
    assert {options["session"] for options in asked} == {"mine"}


async def test_time_over_in_the_midst_of_a_tool() -> None:
    with pytest.raises(NotYet):
        await ScriptedModel([call("slow")]).run_tools("Go", tools=[slow], timeout=0.05)


async def test_a_round_that_fails_raises_why() -> None:
    model = ScriptedModel([Text("")], status="failed", failure=Failure(code="over_budget", message="spent"))
    with pytest.raises(OverBudget):
        await model.run_tools("Go", tools=[clock])


async def test_callbacks_may_be_coroutines() -> None:
    seen: list[int] = []

    async def keep(step: ToolStep) -> None:
        await asyncio.sleep(0)
        seen.append(step.number)

    await ScriptedModel([call("clock")], [Text("x")]).run_tools("Go", tools=[clock], on_step=keep)
    assert seen == [1]


@pytest.mark.parametrize(
    "options",
    [{"tools": []}, {}, {"tools": [Tool("f")]}, {"tools": [clock], "n": 2}, {"tools": [clock], "most_rounds": 0},
     {"tools": [clock], "schema": Finding, "response_format": {"type": "text"}}],
)  # fmt: skip
async def test_what_cannot_run_is_refused_before_anything_is_asked(options: Any) -> None:
    model = ScriptedModel([Text("x")])
    with pytest.raises(ValueError, match=r"run_tools|most_rounds|schema"):
        await model.run_tools("Go", **options)
    assert not model.asked
