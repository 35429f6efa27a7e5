"""Observations: by the agents, and afterwards from the topics, the ledger and the simulator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from headrace_contracts.events import AttemptFinished, TaskCompleted

from headrace_devstack.demo.corpus import Agent, Job


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """One job as seen by its agent.

    Attributes:
        task_id: None if it was not even accepted.
        total_ms: From before the submission until the agent had the answer.
        answered: Whether there was an answer.
        problem: Why not, in words.
    """

    job: Job
    agent: Agent
    task_id: str | None
    total_ms: float
    answered: bool
    problem: str = ""


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
        submitted: Task ids in tasks.submitted of the run's tenants.
        completions: Every record of tasks.completed of the run's tenants.
        attempts: Every record of attempts.finished of the run's tasks.
        cloud_attempts: Every record of work.cloud.* of the run's tenants.
        ledger: Cost by tenant in nano-dollars, as the cost accountant reports it.
        received: None if no simulator was asked.
    """

    submitted: tuple[str, ...]
    completions: tuple[TaskCompleted, ...]
    attempts: tuple[AttemptFinished, ...]
    cloud_attempts: tuple[CloudAttempt, ...]
    ledger: Mapping[str, int]
    received: MarkerSearch | None
