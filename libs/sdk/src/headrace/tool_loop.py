"""A model calls tools until it answers: one loop, whichever client carries the tasks."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Generic, Protocol, TypeVar

from headrace_contracts.ids import new_id

from headrace.answer_forms import AnswerForm
from headrace.errors import NotYet, TooManyRounds, no_answer
from headrace.message_documents import message_of
from headrace.messages import Image, Message, Prompt, ToolCall, ToolResult, conversation_of
from headrace.pieces import OnPiece, told
from headrace.requests import TaskOptions
from headrace.results import NANODOLLARS, Task, Usage
from headrace.tools import Tool, tools_of

T = TypeVar("T")

_LONGEST_ERROR: Final = 2_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolStep:
    """One round in which tools were called.

    Attributes:
        number: 1 for the first.
        task: The task whose answer called them.
        calls, results: Each call, and at the same place its result.
    """

    number: int
    task: Task
    calls: tuple[ToolCall, ...]
    results: tuple[ToolResult, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolRun(Generic[T]):
    """What came of a run.

    Attributes:
        task: The task that answered.
        parsed: Its answer in the form that `schema` asked for; None without one.
        steps: The rounds before it, in order.
        messages: The whole conversation, this answer included: to go on with.
    """

    task: Task
    parsed: T
    steps: tuple[ToolStep, ...]
    messages: tuple[Message, ...]

    @property
    def answer(self) -> str:
        """The text of the answer."""
        return self.task.answer or ""

    @property
    def tasks(self) -> tuple[Task, ...]:
        """All tasks, in order."""
        return (*(step.task for step in self.steps), self.task)

    @property
    def usage(self) -> Usage:
        """What all tasks consumed."""
        return sum((task.usage for task in self.tasks), start=Usage())

    @property
    def cost_nanodollars(self) -> int:
        """Cost of all tasks, in nano-dollars."""
        return sum(task.cost_nanodollars for task in self.tasks)

    @property
    def cost_usd(self) -> Decimal:
        """The cost in dollars, exact."""
        return Decimal(self.cost_nanodollars) / NANODOLLARS


OnStep = Callable[[ToolStep], Awaitable[None] | None]
"""Called after each round; if it returns an awaitable, that is awaited."""


class Ended(Protocol):
    """Has a task done; see `Asking.ended`."""

    async def __call__(
        self, prompt: Prompt, options: TaskOptions, *, timeout: float | None, idempotency_key: str | None,
        on_piece: OnPiece | None,
    ) -> Task: ...  # fmt: skip


async def run_tools(
    ended: Ended, prompt: Prompt, options: TaskOptions, *, schema: Any, most_rounds: int,
    timeout: float | None, idempotency_key: str | None, on_piece: OnPiece | None, on_step: OnStep | None,
) -> ToolRun[Any]:  # fmt: skip
    """See `Asking.run_tools`."""
    offered = {tool.name: tool for tool in tools_of(options.get("tools") or ())}
    form = None if schema is None else AnswerForm(schema)
    if (lacking := [name for name, tool in offered.items() if tool.function is None]) or not offered:
        raise ValueError(f"run_tools calls functions: give {', '.join(lacking) or 'at least one tool'} with one")
    if (options.get("n") or 1) != 1:
        raise ValueError("run_tools goes on with the one answer that there is: leave out n")
    if most_rounds < 1:
        raise ValueError("most_rounds is at least 1")
    began = time.monotonic()
    options = _for_all_rounds(options, list(offered.values()), form)
    messages = [said if isinstance(said, Message) else message_of(said) for said in conversation_of(prompt)]
    steps: list[ToolStep] = []
    for number in range(1, most_rounds + 1):
        left = None if timeout is None else max(0.0, timeout - (time.monotonic() - began))
        key = None if idempotency_key is None else f"{idempotency_key}/{number}"
        task = await ended(
            messages, _for_this_round(options, steps), timeout=left, idempotency_key=key, on_piece=on_piece
        )
        if not task.answered or task.message is None:
            raise no_answer(task)
        messages.append(task.message)
        if not task.tool_calls:
            parsed = None if form is None else form.parse(task)
            return ToolRun(task=task, parsed=parsed, steps=tuple(steps), messages=tuple(messages))
        try:
            async with asyncio.timeout(None if timeout is None else timeout - (time.monotonic() - began)):
                results = await _results(task.tool_calls, offered)
        except TimeoutError:
            raise NotYet(task.id, timeout or 0.0) from None
        messages += [Message.tool(result) for result in results]
        step = ToolStep(number=number, task=task, calls=task.tool_calls, results=results)
        steps.append(step)
        if on_step is not None:
            await told(on_step(step))
    raise TooManyRounds(steps)


def _for_all_rounds(options: TaskOptions, tools: Sequence[Tool], form: AnswerForm[Any] | None) -> TaskOptions:
    made: TaskOptions = {**options, "tools": tools}
    if form is not None:
        if options.get("response_format") is not None:
            raise ValueError("give a schema or a response_format, not both")
        made["response_format"] = form.response_format()
    made["session"] = options.get("session") or new_id()
    deadline = options.get("deadline")
    if isinstance(deadline, int | float):
        made["deadline"] = datetime.now(UTC) + timedelta(seconds=deadline)
    return made


def _for_this_round(options: TaskOptions, steps: Sequence[ToolStep]) -> TaskOptions:
    if not steps:
        return options
    # A model that must call a tool each time would never answer.
    made: TaskOptions = {**options, "tool_choice": None if options.get("tool_choice") != "none" else "none"}
    budget = options.get("budget")
    if budget is not None:
        spent = sum((step.task.cost_usd for step in steps), start=Decimal(0))
        made["budget"] = max(Decimal(0), Decimal(str(budget)) - spent)
    return made


async def _results(calls: Sequence[ToolCall], offered: Mapping[str, Tool]) -> tuple[ToolResult, ...]:
    """The results, in the order of the calls."""
    one_by_one = asyncio.Lock()
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(_result(call, offered, one_by_one)) for call in calls]
    return tuple(task.result() for task in running)


async def _result(call: ToolCall, offered: Mapping[str, Tool], one_by_one: asyncio.Lock) -> ToolResult:
    tool = offered.get(call.name)
    if tool is None or tool.function is None:
        return ToolResult(call.id, f"there is no tool {call.name}; there are {', '.join(offered)}", is_error=True)
    try:
        arguments = tool.bound(call.parsed)
        if _is_async(tool.function):
            found = await tool.function(**arguments)
        else:
            # One by one: what is written without an event loop in mind seldom expects to run twice at once.
            async with one_by_one:
                found = await asyncio.to_thread(tool.function, **arguments)
            if inspect.isawaitable(found):
                found = await found
        return _told_result(call.id, found)
    # Whatever a tool raises is for the model, which may know another way.
    except Exception as error:  # noqa: BLE001
        return ToolResult(call.id, f"{type(error).__name__}: {error}"[:_LONGEST_ERROR], is_error=True)


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def _told_result(call_id: str, found: Any) -> ToolResult:
    """What a function returned, as a model reads it: a text as it is, images as such, anything else as JSON."""
    if isinstance(found, str):
        return ToolResult(call_id, found)
    if isinstance(found, Image):
        return ToolResult(call_id, "", images=(found,))
    if isinstance(found, list | tuple) and any(isinstance(one, Image) for one in found):
        rest = [one for one in found if not isinstance(one, Image)]
        text = "\n".join(_told_result(call_id, one).text for one in rest)
        return ToolResult(call_id, text, images=tuple(one for one in found if isinstance(one, Image)))
    from pydantic_core import to_json

    return ToolResult(call_id, to_json(found, fallback=str).decode())
