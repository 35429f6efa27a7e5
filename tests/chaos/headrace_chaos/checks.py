"""All promises, and the duplicates that are allowed because every reader can recognise them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from headrace_chaos import checks_money, checks_providers, checks_skills, checks_tasks, journal_rule
from headrace_chaos.evidence import Evidence, Violation

_KINDS = {
    "work.local.interactive": "work",
    "work.local.batch": "work",
    "work.cloud.interactive": "work",
    "work.cloud.batch": "work",
    "attempts.cancelled.local": "cancellations",
    "attempts.cancelled.cloud": "cancellations",
    **dict.fromkeys(checks_tasks.OUTCOMES, "attempts"),
    "usage.recorded": "usage",
    "tasks.replies": "replies",
    "skills.feed": "feed",
    "tasks.completed": "completed",
}


@dataclass(frozen=True, slots=True)
class Judgement:
    """The checker's result.

    Attributes:
        duplicates: Records beyond the first of their ce_id, by kind. Only `completed` must be 0. `executions` are
            attempts that ran more than once; each of them is an execution of its own, and costed.
        ignored_entries: Journal entries that do not count, left by zombies and crashes.
        epochs: Takeovers of journal partitions.
        faults: Calls that met a fault of a provider, by provider and kind.
    """

    violations: tuple[Violation, ...]
    duplicates: Mapping[str, int]
    tasks: int
    ended: Mapping[str, int]
    ignored_entries: int
    epochs: int
    faults: Mapping[str, int]


def judge(evidence: Evidence) -> Judgement:
    """Run all checks."""
    reading = journal_rule.read(evidence.of("tasks.journal"))
    ended = {
        record.value["task_id"]: record.value["status"]
        for record in evidence.of("tasks.completed")
        if record.value is not None
    }
    return Judgement(
        violations=(
            *checks_tasks.violations(evidence),
            *checks_money.violations(evidence),
            *checks_providers.violations(evidence),
            *checks_skills.violations(evidence),
        ),
        duplicates=_duplicates(evidence),
        tasks=len({record.value["task_id"] for record in evidence.of("tasks.submitted") if record.value}),
        ended=Counter(ended.values()),
        ignored_entries=len(reading.ignored),
        epochs=reading.epoch_starts,
        faults=evidence.faults,
    )


def _duplicates(evidence: Evidence) -> dict[str, int]:
    found = dict.fromkeys([*_KINDS.values(), "executions"], 0)
    for topic, kind in _KINDS.items():
        records = evidence.of(topic)
        found[kind] += len(records) - len({record.event_id for record in records})
    executions = {
        (record.value["attempt_id"], record.value["execution_id"])
        for topic in checks_tasks.OUTCOMES
        for record in evidence.of(topic)
        if record.value is not None
    }
    found["executions"] = len(executions) - len({attempt for attempt, _ in executions})
    return found
