"""What cascades have saved and how much ensembles agree, of a number of tasks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from headrace.results import Cascade, Ensemble, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class CascadeShare:
    """The tasks of a role that a cascade has answered. Those that were served the answer of an equal one do not count.

    Attributes:
        tasks: How many.
        at_first_rung: Those whose answer is of the first rung, and has passed its tests.
        insufficient: Those whose answer has not passed.
        spent_nanodollars: What all their attempts have cost.
        saved_nanodollars: What their answers would have cost at the last rung, less that.
    """

    role: str
    tasks: int
    at_first_rung: int
    insufficient: int
    spent_nanodollars: int
    saved_nanodollars: int

    @property
    def share_small(self) -> float:
        """The share that the smallest model has answered, from 0 to 1."""
        return self.at_first_rung / self.tasks


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleAgreement:
    """The tasks of a role that an ensemble has answered. Those served the answer of an equal one do not count.

    Attributes:
        tasks: How many.
        compared: Those with two answers or more.
        at_goal: Those of them whose coherence was at the policy's goal.
        mean_coherence: Of those that were compared; None without any.
        cost_nanodollars: Of all members.
    """

    role: str
    tasks: int
    compared: int
    at_goal: int
    mean_coherence: float | None
    cost_nanodollars: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SavingsReport:
    """By role, in alphabetical order."""

    cascades: tuple[CascadeShare, ...] = ()
    ensembles: tuple[EnsembleAgreement, ...] = ()


def savings_of(tasks: Iterable[Task]) -> SavingsReport:
    """The report on these tasks; those without several models, without an answer or with a shared one are left out."""
    cascades: defaultdict[str, list[Cascade]] = defaultdict(list)
    ensembles: defaultdict[str, list[Ensemble]] = defaultdict(list)
    for task in tasks:
        if task.served_from != "attempt":
            continue
        if task.cascade is not None and task.cascade.rung:
            cascades[task.role or ""].append(task.cascade)
        if task.ensemble is not None and task.ensemble.combined_by:
            ensembles[task.role or ""].append(task.ensemble)
    return SavingsReport(
        cascades=tuple(_share(role, cascades[role]) for role in sorted(cascades)),
        ensembles=tuple(_agreement(role, ensembles[role]) for role in sorted(ensembles)),
    )


def _share(role: str, found: Sequence[Cascade]) -> CascadeShare:
    return CascadeShare(
        role=role,
        tasks=len(found),
        at_first_rung=sum(one.rung == 1 and one.sufficient for one in found),
        insufficient=sum(not one.sufficient for one in found),
        spent_nanodollars=sum(member.cost_nanodollars for one in found for member in one.members),
        saved_nanodollars=sum(one.saved_nanodollars for one in found),
    )


def _agreement(role: str, found: Sequence[Ensemble]) -> EnsembleAgreement:
    known = [(one.coherence, one.goal) for one in found if one.coherence is not None]
    return EnsembleAgreement(
        role=role,
        tasks=len(found),
        compared=len(known),
        at_goal=sum(goal is not None and coherence >= goal for coherence, goal in known),
        mean_coherence=sum(coherence for coherence, _ in known) / len(known) if known else None,
        cost_nanodollars=sum(member.cost_nanodollars for one in found for member in one.members),
    )
