"""Cascades and ensembles in the simulation: which tasks ask for one, and what judges and raters say.

All of it is drawn from generators of their own, so that the seeds without them keep their schedules.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from typing import Final

from headrace_contracts.events import Routing, TaskSubmitted
from headrace_router.decide.policy import EnsemblePolicy, MemberPolicy, ModelRef, RolePolicy

from headrace_testing.simulation.research import ROLE as RESEARCHER

SEVERAL_SHARE: Final = 0.25
"""Share of seeds in which some tasks ask for several models."""
_TASKS_SHARE: Final = 0.7
CASCADE: Final = "general"
VOTE: Final = "testing"
JUDGED: Final = "code_reviewer"
"""Roles that have one."""
LEAST_RATING: Final = 0.7
QUORUM: Final = 2


def several(seed: int) -> bool:
    """Whether tasks of this seed ask for several models."""
    return random.Random(f"{seed} several").random() < SEVERAL_SHARE


class TeamTasks:
    """Makes some tasks of a seed ask for several models."""

    def __init__(self, seed: int, *, some: bool) -> None:
        self._rng = random.Random(f"{seed} teams")
        self._some = some

    def dressed(self, task: TaskSubmitted) -> TaskSubmitted:
        """The task itself, or one for several models."""
        rng = self._rng
        kept = task.model is not None or task.role in ("security_reviewer", RESEARCHER)
        if not self._some or kept or rng.random() > _TASKS_SHARE:
            return task
        role = rng.choice((CASCADE, VOTE, JUDGED))
        routing = Routing(cascade=True) if role == CASCADE else Routing(ensemble=True)
        return replace(task, role=role, routing=routing)


def with_ensemble(role: RolePolicy, *, judged: bool) -> RolePolicy:
    """The role with an ensemble: of two equal members and another one, by vote or by a judge."""
    models = ("gemma2:2b", "gemma2:2b", "qwen2.5-coder:7b")
    refs = [ModelRef(provider="ollama", model=model) for model in models]
    ensemble = EnsemblePolicy(
        members=tuple(MemberPolicy(part="primary", models=(ref, refs[2 - place])) for place, ref in enumerate(refs)),
        combine="judge" if judged else "vote",
        judge=(refs[0],) if judged else (),
        quorum=QUORUM,
        within=15_000,
    )
    return role.model_copy(update={"ensemble": ensemble})


def verdict_on(text: str, told: str) -> str | None:
    """What a simulated model replies that is asked to rate or to judge, always the same; None if it is not."""
    drawn = hashlib.sha256(text.encode()).digest()[0]
    if '{"confidence": c}' in told:
        return ("{}", '{"confidence": 0.2}', '{"confidence": 0.9}', '{"confidence": 0.7}')[drawn % 4]
    return f'{{"best": {drawn % 4}}}' if '{"best": n}' in told else None
