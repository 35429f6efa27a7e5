"""What the clients over HTTP and over Kafka have in common: asking, and running tools."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, TypeVar, Unpack, overload

from headrace.answer_forms import AnswerForm
from headrace.errors import no_answer
from headrace.messages import Prompt
from headrace.pieces import OnPiece
from headrace.requests import TaskOptions
from headrace.results import Task
from headrace.tool_loop import OnStep, ToolRun, run_tools

T = TypeVar("T")


class Asking(ABC):
    """A client that can have a task done and wait for its end."""

    @abstractmethod
    async def ended(
        self, prompt: Prompt, options: TaskOptions, *, timeout: float | None, idempotency_key: str | None,
        on_piece: OnPiece | None,
    ) -> Task:  # fmt: skip
        """Submit a task and wait until it has ended, in whatever way. Raises NotYet after `timeout` seconds."""

    @overload
    async def ask(
        self, prompt: Prompt, *, schema: type[T], timeout: float | None = None, idempotency_key: str | None = None,
        **options: Unpack[TaskOptions],
    ) -> T: ...  # fmt: skip

    @overload
    async def ask(
        self, prompt: Prompt, *, schema: Mapping[str, Any], timeout: float | None = None,
        idempotency_key: str | None = None, **options: Unpack[TaskOptions],
    ) -> Any: ...  # fmt: skip

    @overload
    async def ask(
        self, prompt: Prompt, *, schema: None = None, timeout: float | None = None,
        idempotency_key: str | None = None, **options: Unpack[TaskOptions],
    ) -> Task: ...  # fmt: skip

    async def ask(
        self, prompt: Prompt, *, schema: type[Any] | Mapping[str, Any] | None = None, timeout: float | None = None,
        idempotency_key: str | None = None, **options: Unpack[TaskOptions],
    ) -> Any:  # fmt: skip
        """Submit a task and wait for its answer.

            review = await client.ask("Review app.py: …", schema=Review, role="code_reviewer")

        Args:
            schema: The form of the answer: a pydantic model, or another type that pydantic validates, whose instance
                is returned; or a JSON Schema, for which JSON values are. Without it, the task is returned.
            timeout: Seconds to wait.
            idempotency_key: See `submit`.

        Raises NoAnswer when the task ends without an answer (also as OverBudget, RetryLater, RequestInvalid or
        NotFound, where its failure is of such a kind), NotYet after `timeout` seconds, and what `submit` raises. With a
        schema: AnswerInvalid for an answer that does not fit, Declined if the model declined; without one, what it says
        then is an answer (`Task.status` is refused).
        """
        form = None
        if schema is not None:
            form = AnswerForm(schema)
            if options.get("response_format") is not None:
                raise ValueError("give a schema or a response_format, not both")
            options["response_format"] = form.response_format()
        task = await self.ended(prompt, options, timeout=timeout, idempotency_key=idempotency_key, on_piece=None)
        if form is not None:
            return form.parse(task)
        if not task.answered:
            raise no_answer(task)
        return task

    @overload
    async def run_tools(
        self, prompt: Prompt, *, schema: type[T], most_rounds: int = 10, timeout: float | None = None,
        idempotency_key: str | None = None, on_piece: OnPiece | None = None, on_step: OnStep | None = None,
        **options: Unpack[TaskOptions],
    ) -> ToolRun[T]: ...  # fmt: skip

    @overload
    async def run_tools(
        self, prompt: Prompt, *, schema: Mapping[str, Any], most_rounds: int = 10,
        timeout: float | None = None, idempotency_key: str | None = None, on_piece: OnPiece | None = None,
        on_step: OnStep | None = None, **options: Unpack[TaskOptions],
    ) -> ToolRun[Any]: ...  # fmt: skip

    @overload
    async def run_tools(
        self, prompt: Prompt, *, schema: None = None, most_rounds: int = 10,
        timeout: float | None = None, idempotency_key: str | None = None, on_piece: OnPiece | None = None,
        on_step: OnStep | None = None, **options: Unpack[TaskOptions],
    ) -> ToolRun[None]: ...  # fmt: skip

    async def run_tools(
        self, prompt: Prompt, *, schema: type[Any] | Mapping[str, Any] | None = None,
        most_rounds: int = 10, timeout: float | None = None, idempotency_key: str | None = None,
        on_piece: OnPiece | None = None, on_step: OnStep | None = None, **options: Unpack[TaskOptions],
    ) -> ToolRun[Any]:  # fmt: skip
        """Let a model call tools until it answers.

            run = await client.run_tools("What does app.py do?", tools=[read_file, search], role="reviewer")
            print(run.answer, run.cost_usd, [call.name for step in run.steps for call in step.calls])

        Each round is a task, and all are of one session, so that they keep their order. Of the calls in one answer,
        async functions run at the same time, others one after another in a thread. What a tool raises, and arguments
        that do not fit its parameters, go back to the model as an error, so that it can try otherwise.

        Args:
            schema: The form of the last answer; see `ask`.
            most_rounds: Most tasks.
            timeout: Seconds for everything.
            idempotency_key: Your name for this run; the round is added to it.
            on_piece: Called with each piece of each answer as it comes.
            on_step: Called after each round in which tools were called.
            options: See `TaskOptions`. `tools` are functions with annotations and a docstring, or `Tool`s with a
                function. `tool_choice` is for the first round; `budget` and `deadline` are for all together.

        Raises TooManyRounds, ValueError for what is no tool, and what `ask` raises.
        """
        return await run_tools(
            self.ended, prompt, options, schema=schema, most_rounds=most_rounds, timeout=timeout,
            idempotency_key=idempotency_key, on_piece=on_piece, on_step=on_step,
        )  # fmt: skip
