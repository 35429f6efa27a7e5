"""The three APIs through which agents use Headrace. Each performs a job and returns its outcome for the agent."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp
from headrace import Client, HeadraceError, KafkaClient, NoAnswer, Task
from headrace_contracts.errors import ContractError
from headrace_contracts.events import Lane, Privacy, Sampling, TaskCompleted, TaskStatus
from headrace_streams.errors import StreamsError

from headrace_devstack.demo.corpus import Agent, Job, Way
from headrace_devstack.demo.outcomes import JobOutcome

JOB_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Done:
    """The outcome of a job; see `JobOutcome`."""

    task_id: str | None
    answered: bool
    problem: str = ""


class SubmissionApi(Protocol):
    """One tenant's API."""

    async def do(self, job: Job, agent: Agent) -> Done:
        """Submit the job and wait for its end. Expected failures are part of the result."""
        ...


async def timed(
    api: SubmissionApi, job: Job, agent: Agent, clock: Callable[[], float] = time.perf_counter
) -> JobOutcome:
    """The outcome of a job, with its duration."""
    began = clock()
    done = await api.do(job, agent)
    return JobOutcome(job, agent, done.task_id, (clock() - began) * 1000, done.answered, done.problem)


class HttpApi:
    """POST /v1/tasks with the SDK."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def do(self, job: Job, agent: Agent) -> Done:
        try:
            task = await self._client.ask(
                job.prompt, timeout=JOB_SECONDS, role=job.role, kind=job.kind, privacy=job.privacy.value,
                priority=job.priority, max_tokens=job.max_tokens, user=agent.name,
            )  # fmt: skip
        except NoAnswer as error:
            return Done(error.task.id, False, _why(error.task))
        except HeadraceError as error:
            return Done(None, False, f"{type(error).__name__}: {error}")
        return Done(task.id, True)


class OpenAIApi:
    """POST /v1/chat/completions, as any OpenAI client does."""

    def __init__(self, session: aiohttp.ClientSession, url: str, api_key: str) -> None:
        self._session = session
        self._url = f"{url.rstrip('/')}/v1/chat/completions"
        self._headers = {"Authorization": f"Bearer {api_key}"}

    async def do(self, job: Job, agent: Agent) -> Done:
        body = {
            "model": f"role:{job.role}",
            "messages": [{"role": "user", "content": job.prompt}],
            "max_tokens": job.max_tokens,
            "user": agent.name,
            "kind": job.kind,
            "privacy": job.privacy.value,
            "priority": job.priority,
            "deadline": JOB_SECONDS,
        }
        try:
            async with self._session.post(self._url, json=body, headers=self._headers) as response:
                task_id = response.headers.get("X-Headrace-Task-Id")
                document: Any = await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            return Done(None, False, f"{type(error).__name__}: {error}")
        if not isinstance(document, dict) or response.status != 200:
            error_document = document.get("error") if isinstance(document, dict) else None
            message = error_document.get("message") if isinstance(error_document, dict) else document
            return Done(task_id, False, f"{response.status}: {message}")
        return Done(str(document["headrace"]["task_id"]), True)


class KafkaApi:
    """Directly to tasks.submitted and from tasks.completed."""

    def __init__(self, client: KafkaClient) -> None:
        self._client = client

    async def do(self, job: Job, agent: Agent) -> Done:
        task_id: str | None = None
        try:
            submitted = await self._client.submit(
                job.prompt, role=job.role, kind=job.kind, privacy=Privacy(job.privacy.value), lane=Lane(job.priority),
                sampling=Sampling(max_output_tokens=job.max_tokens), user=agent.name,
            )  # fmt: skip
            task_id = submitted.task_id
            end = await submitted.completion(JOB_SECONDS)
        except (HeadraceError, StreamsError, ContractError) as error:
            return Done(task_id, False, f"{type(error).__name__}: {error}")
        if end.status in (TaskStatus.SUCCEEDED, TaskStatus.REFUSED):
            return Done(task_id, True)
        return Done(task_id, False, _why_ended(end))


def _why(task: Task) -> str:
    return f"{task.status}: {task.failure.code} {task.failure.message}" if task.failure else task.status


def _why_ended(end: TaskCompleted) -> str:
    return f"{end.status.value}: {end.failure.code} {end.failure.message}" if end.failure else end.status.value


def api_for(agent: Agent, http: HttpApi, openai: OpenAIApi, kafka: KafkaApi) -> SubmissionApi:
    """The API that an agent uses."""
    apis: dict[Way, SubmissionApi] = {Way.HTTP: http, Way.OPENAI: openai, Way.KAFKA: kafka}
    return apis[agent.way]
