"""Promises about what is demanded: no attempt runs under less, and only what asks for less is refused.

What is demanded is read from the topic of preferences, and computed by numbers. No code of the services decides here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from headrace_contracts.events import AttemptRequested, Preferences, ServedFrom, TaskSubmitted

from headrace_testing.simulation.record import Commanded
from headrace_testing.simulation.research import WEB

if TYPE_CHECKING:
    from headrace_testing.simulation.judge import Judge

_KNOWN_SECONDS: Final = 20.0
"""A router knows a change of preferences within this time, whatever its network does."""
_THAWED_SECONDS: Final = 60.0
"""One that was frozen, a while after it continues."""
_LEVELS: Final = {"low": 0, "standard": 1, "high": 2, "public": 0, "internal": 1, "sensitive": 2}
_MODES: Final = {"cloud": 0, "hybrid": 1, "local": 2}
_HYBRID: Final = 1


@dataclass(frozen=True, slots=True)
class _Floor:
    """What one version of the tenant's and one of the user's preferences demand of a task."""

    privacy: int
    mode: int
    usual_mode: int
    consented: frozenset[str]

    def asks_for_less(self, task: TaskSubmitted) -> bool:
        return (
            (task.privacy is not None and _LEVELS[task.privacy] < self.privacy)
            or (task.mode is not None and _MODES[task.mode] < self.mode)
            or (task.mode == "cloud" and self.privacy == _LEVELS["sensitive"])
        )

    def allows(self, task: TaskSubmitted, attempt: AttemptRequested) -> bool:
        level = _LEVELS[attempt.privacy]
        mode = max(self.mode, self.usual_mode if task.mode is None else _MODES[task.mode])
        if self.asks_for_less(task) or level < self.privacy:
            return False
        if task.privacy is not None and level < _LEVELS[task.privacy]:
            return False
        if attempt.provider == "ollama":
            return True
        return (
            level < _LEVELS["sensitive"]
            # A search of our own is local, and asks the web.
            and (mode < _MODES["local"] or attempt.provider == WEB)
            and (level == _LEVELS["public"] or attempt.provider in self.consented)
        )


def check_dispatched(judge: Judge, attempt: AttemptRequested, commanded: Commanded) -> None:
    """An attempt has at least what was demanded of its task when it was decided."""
    task = _task_of(judge, attempt.task_id)
    if task is None or attempt.task_id in judge.refused:
        return
    floors = _floors(judge, task, commanded)
    if not any(floor.allows(task, attempt) for floor in floors):
        asked = f"asks for {task.privacy} and {task.mode}"
        judge.violated(
            f"{attempt.attempt_id} runs as {attempt.privacy} at {attempt.provider}, below what is demanded: "
            f"its task {asked}, and {_words(floors)}"
        )


def verdict(judge: Judge) -> Sequence[str]:
    """All violations concerning demands that show at the end only."""
    return [*_refusals(judge), *_shared(judge)]


def _refusals(judge: Judge) -> Iterator[str]:
    """What was refused for asking for less did ask for less than somebody demanded."""
    for task_id, records in judge.topics.completed.items():
        for _, end in records:
            if end.failure is None or end.failure.code != "below_floor":
                continue
            task = _task_of(judge, task_id)
            commanded = judge.topics.commands.get(("tasks.completed", f"{task_id}/completed"))
            if task is None or not commanded:
                continue
            floors = _floors(judge, task, commanded[0])
            if not any(floor.asks_for_less(task) for floor in floors):
                yield f"task {task_id} was refused, though it asks for enough: {_words(floors)}"


def _shared(judge: Judge) -> Iterator[str]:
    """An answer serves tasks of its own level only."""
    topics = judge.topics
    for task_id, records in topics.completed.items():
        for _, end in records:
            if end.served_from not in (ServedFrom.CACHE, ServedFrom.COALESCED) or end.source_task_id is None:
                continue
            sources = topics.completed.get(end.source_task_id, ())
            if any(source.privacy != end.privacy or source.tenant != end.tenant for _, source in sources):
                yield f"task {task_id} ({end.privacy}) was served the answer of {end.source_task_id}"


def _floors(judge: Judge, task: TaskSubmitted, commanded: Commanded) -> Sequence[_Floor]:
    """What may have been demanded of a task, as far as the router that decided could know."""
    seen = commanded.seen
    process = next((each for each in judge.world.processes if each.name == seen.client), None)
    since = seen.at - (_KNOWN_SECONDS if process is not None and not process.suspect else _THAWED_SECONDS)
    role = _of_role(judge, task)
    default = _LEVELS[judge.world.kit.policy.defaults.privacy_level]
    found = []
    for tenant in _versions(judge, task.tenant, "", since, seen.at):
        for user in _versions(judge, task.tenant, task.user, since, seen.at) if task.user else (None,):
            both = [each for each in (tenant, user) if each is not None]
            privacy = max([role, *(_LEVELS[each.privacy_level] for each in both if each.privacy_level)])
            if task.privacy is None and (tenant is None or tenant.privacy_level is None):
                privacy = max(privacy, default)
            usual = _HYBRID if tenant is None or tenant.ai_mode is None else _MODES[tenant.ai_mode]
            mode = max([0, *(_MODES[each.ai_mode] for each in both if each.ai_mode)])
            consented = frozenset(() if tenant is None else tenant.allowed_providers)
            if user is not None and user.allowed_providers:
                consented &= frozenset(user.allowed_providers)
            found.append(_Floor(privacy, mode, usual, consented))
    return found


def _versions(judge: Judge, tenant: str, user: str, since: float, until: float) -> Sequence[Preferences | None]:
    """The records that were the newest under their key at some time in between; None for no record."""
    history = judge.topics.preferences.get((tenant, user), ())
    found: list[Preferences | None] = []
    current: Preferences | None = None
    for at, record in history:
        if at > until:
            break
        if at >= since:
            found.append(current)
        current = record
    return [*found, current]


def _of_role(judge: Judge, task: TaskSubmitted) -> int:
    policy = judge.world.kit.policy
    name = task.role or (None if task.model is not None else policy.defaults.role)
    role = None if name is None else policy.roles.get(name)
    if role is None:
        return 0
    return 2 if role.always_local else 0 if role.privacy is None else _LEVELS[role.privacy]


def _task_of(judge: Judge, task_id: str) -> TaskSubmitted | None:
    found = judge.topics.submitted.get(task_id)
    return found[0][1] if found else None


def _words(floors: Sequence[_Floor]) -> str:
    return " or ".join(
        f"privacy {each.privacy}, mode {each.mode}, providers {sorted(each.consented)} of it" for each in floors
    )
