"""How an agent does a job: a task, or with tools a loop of tasks, through whichever API it uses."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from headrace import (
    AnswerInvalid,
    Declined,
    HeadraceError,
    Message,
    NoAnswer,
    NotYet,
    Prompt,
    Task,
    TaskOptions,
    ToolStep,
    TooManyRounds,
)
from headrace.answer_forms import AnswerForm
from headrace.asking import Asking
from headrace.errors import no_answer
from headrace.pieces import OnPiece
from headrace_contracts.errors import ContractError
from headrace_contracts.ids import new_id
from headrace_streams.errors import StreamsError

from headrace_devstack.demo.corpus import Agent, Job, JobPrivacy
from headrace_devstack.demo.findings import FindingsReport
from headrace_devstack.demo.outcomes import JobOutcome, TaskRound, ToolUse
from headrace_devstack.demo.repository import Repository
from headrace_devstack.demo.roles import FORM_OF_FINDINGS

JOB_SECONDS: Final = 600.0
_MOST_ROUNDS: Final = 6
_INCAPABLE: Final = "incapable"
_FORM: Final[AnswerForm[FindingsReport]] = AnswerForm(FindingsReport)


@dataclass(frozen=True, slots=True)
class Workplace:
    """What the agents of a tenant that use the same API have.

    Attributes:
        api: Has tasks done.
        floor: The least privacy level that the tenant lets them ask for.
    """

    api: Asking
    repository: Repository
    floor: JobPrivacy = JobPrivacy.PUBLIC


class RecordingApi(Asking):
    """Has tasks done by another API, and keeps what was seen of each."""

    def __init__(self, api: Asking, clock: Callable[[], float]) -> None:
        self._api = api
        self._clock = clock
        self.rounds: list[TaskRound] = []

    async def ended(
        self, prompt: Prompt, options: TaskOptions, *, timeout: float | None = None,
        idempotency_key: str | None = None, on_piece: OnPiece | None = None,
    ) -> Task:  # fmt: skip
        """Raises what the other API raises."""
        began = self._clock()
        task_id: str | None = None
        answered, problem = False, ""
        try:
            task = await self._api.ended(
                prompt, options, timeout=timeout, idempotency_key=idempotency_key, on_piece=on_piece
            )
            task_id, answered = task.id, task.answered
            if not answered:
                problem = f"{task.status}: {task.failure.code} {task.failure.message}" if task.failure else task.status
            return task
        except NotYet as error:
            task_id, problem = error.task_id, _named(error)
            raise
        except (HeadraceError, StreamsError, ContractError) as error:
            problem = _named(error)
            raise
        finally:
            self.rounds.append(TaskRound(task_id, (self._clock() - began) * 1000, answered, problem))


@dataclass(slots=True)
class _Work:
    """What has come of a job so far."""

    steps: list[ToolStep] = field(default_factory=list)
    without_tools: bool = False
    report: FindingsReport | None = None
    invalid: str = ""
    declined: bool = False


async def do_job(
    place: Workplace, job: Job, agent: Agent, clock: Callable[[], float] = time.perf_counter
) -> JobOutcome:
    """Do a job to its end. Expected failures are part of the outcome."""
    began = clock()
    api, work, problem = RecordingApi(place.api, clock), _Work(), ""
    try:
        await _worked(api, place, job, agent, work)
    except AnswerInvalid as error:
        work.invalid = problem = str(error)
    except Declined:
        work.declined = True
    except (HeadraceError, StreamsError, ContractError) as error:
        # What became of a task says more than the error made of it.
        problem = next((one.problem for one in api.rounds[-1:] if one.problem), _named(error))
    return JobOutcome(
        job=job,
        agent=agent,
        rounds=tuple(api.rounds),
        total_ms=(clock() - began) * 1000,
        answered=not problem,
        problem=problem,
        calls=tuple(
            ToolUse(call.name, failed=result.is_error)
            for step in work.steps
            for call, result in zip(step.calls, step.results, strict=True)
        ),
        without_tools=work.without_tools,
        report=work.report,
        declined=work.declined,
        invalid=work.invalid,
    )


async def _worked(api: RecordingApi, place: Workplace, job: Job, agent: Agent, work: _Work) -> None:
    """Raises NoAnswer and the other errors of the API."""
    prompt: Prompt = job.prompt
    options: TaskOptions = {
        "role": job.role, "kind": job.kind, "privacy": job.level(place.floor).value, "priority": job.priority,
        "max_tokens": job.max_tokens, "user": agent.name, "deadline": JOB_SECONDS,
        # Over OpenAI's API, answers are shared only by those who ask for it.
        "allow_cached": True,
    }  # fmt: skip
    if job.with_tools:
        options["session"], options["tools"] = new_id(), place.repository.tools(job.privacy)
        said = await _in_a_loop(api, job, options, work)
        if said is None:
            prompt, options["tools"] = job.whole_prompt, None
        elif job.structured:
            # Asked for after the loop: some providers cannot do both, call tools and keep to a form.
            prompt = [*said, Message.user(f'Report what you found in "{job.subject}".\n{FORM_OF_FINDINGS}')]
            options["tool_choice"] = "none"
        elif said[-1].role == "assistant":
            return
        else:
            prompt, options["tool_choice"] = [*said, Message.user("That is enough: answer now.")], "none"
    if job.structured:
        options["response_format"] = _FORM.response_format()
    task = await api.ended(prompt, options, timeout=JOB_SECONDS)
    if not task.answered:
        raise no_answer(task)
    if job.structured:
        work.report = _FORM.parse(task)


async def _in_a_loop(api: Asking, job: Job, options: TaskOptions, work: _Work) -> Sequence[Message] | None:
    """The conversation in which the model called tools; it ends with results if the model did not stop calling. None if
    no model that may have this job can call any. Raises what `run_tools` raises otherwise."""
    try:
        run = await api.run_tools(
            job.prompt, most_rounds=_MOST_ROUNDS, timeout=JOB_SECONDS, on_step=work.steps.append, **options
        )
    except TooManyRounds as error:
        said = [Message.user(job.prompt)]
        for step in error.steps:
            said += [step.task.message or Message.assistant(*step.calls), *map(Message.tool, step.results)]
        return said
    except NoAnswer as error:
        if work.steps or error.task.failure is None or error.task.failure.code != _INCAPABLE:
            raise
        work.without_tools = True
        return None
    return run.messages


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
