"""Observations: by the agents, and afterwards from the topics, the ledger and the simulator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from headrace_contracts.events import AttemptFinished, TaskCompleted

from headrace_devstack.demo.corpus import Agent, Job
from headrace_devstack.demo.findings import FindingsReport


@dataclass(frozen=True, slots=True)
class TaskRound:
    """One task of a job as seen by its agent.

    Attributes:
        task_id: None if it was not even accepted.
        total_ms: From before the submission until the agent had the answer.
        answered: Whether there was an answer; calls of tools are one.
        problem: Why not, in words.
    """

    task_id: str | None
    total_ms: float
    answered: bool
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A call of a tool by a model. `failed`: the model got an error as its result."""

    name: str
    failed: bool


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """One job as seen by its agent.

    Attributes:
        rounds: Its tasks, in order.
        total_ms: From before the first submission until the agent had the last answer.
        answered: Whether the work was done.
        problem: Why not, in words.
        calls: The calls of tools, in order.
        without_tools: Whether it was done without the tools it should have had, since no model could call any.
        report: The findings of a structured job.
        declined: Whether the model declined to give them.
        invalid: Why its answer is not of the form asked for.
    """

    job: Job
    agent: Agent
    rounds: tuple[TaskRound, ...]
    total_ms: float
    answered: bool
    problem: str = ""
    calls: tuple[ToolUse, ...] = ()
    without_tools: bool = False
    report: FindingsReport | None = None
    declined: bool = False
    invalid: str = ""

    @property
    def task_ids(self) -> tuple[str, ...]:
        """The tasks that were accepted, in order."""
        return tuple(one.task_id for one in self.rounds if one.task_id is not None)


@dataclass(frozen=True, slots=True)
class SkillDelivery:
    """A skill that reached an agent.

    Attributes:
        after_call_ms: From the author's call of publish until the receiver had it.
        after_publishing_ms: From its publication in the catalog until then.
    """

    skill: str
    author: str
    receiver: str
    after_call_ms: float
    after_publishing_ms: float


@dataclass(frozen=True, slots=True)
class SkillExchange:
    """Everything that was published and received.

    Attributes:
        publish_ms: Duration of each call of publish.
        expected: Pairs of a skill and an agent that follows its domain.
    """

    publish_ms: tuple[float, ...] = ()
    deliveries: tuple[SkillDelivery, ...] = ()
    expected: frozenset[tuple[str, str]] = frozenset()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CloudAttempt:
    """A record found on a topic that cloud workers read."""

    topic: str
    task_id: str
    provider: str
    sensitive: bool


@dataclass(frozen=True, slots=True)
class SubmittedRound:
    """A record of tasks.submitted.

    Attributes:
        results: Ids of the tool calls whose results end its conversation, in order.
    """

    task_id: str
    partition: int
    offset: int
    session: str | None = None
    results: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MarkerSearch:
    """The simulator's answer when asked for the markers of the sensitive files.

    Attributes:
        complete: Whether it still had all requests of the run.
        hits: Number of requests per provider that contained a marker.
    """

    complete: bool
    hits: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class RunEvidence:
    """The run's records in the topics, the ledger and the simulator.

    Attributes:
        submitted: Every record of tasks.submitted of the run's tenants.
        completions: Every record of tasks.completed of the run's tenants.
        attempts: Every record of attempts.finished and attempts.finished.cloud of the run's tasks.
        cloud_attempts: Every record of work.cloud.* of the run's tenants.
        ledger: Cost by tenant in nano-dollars, as the cost accountant reports it.
        received: None if no simulator was asked.
    """

    submitted: tuple[SubmittedRound, ...]
    completions: tuple[TaskCompleted, ...]
    attempts: tuple[AttemptFinished, ...]
    cloud_attempts: tuple[CloudAttempt, ...]
    ledger: Mapping[str, int]
    received: MarkerSearch | None
