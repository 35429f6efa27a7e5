"""Bugs of cascades and ensembles."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from headrace_contracts.events import Failure, Outcome, Privacy
from headrace_router.decide import cascade, ensemble, panel, publications

from headrace_testing.simulation.planted.bugs import Bug, Patches


def _refusal_passed_over(patches: Patches) -> None:
    def refused(step: Any, place: int, end: Any, ended: Any, context: Any) -> None:
        failure = Failure(code="refused", message="somebody else may not refuse")
        panel.failed(step, place, replace(end, outcome=Outcome.FAILED_PERMANENT, failure=failure), None, context)

    patches.put(panel, "_refused", refused)


def _answered_and_asked_again(patches: Patches) -> None:
    def keep(step: Any, place: int, *rest: Any) -> None:
        original(step, place, *rest)
        member = step.panel.members[place]
        if member.answer is not None and len(member.attempts) < 2:
            step.change(place, replace(member, ended=False))

    original = patches.put(panel, "_keep", keep)


def _quorum_of_one(patches: Patches) -> None:
    def concluded(step: Any, plan: Any, context: Any) -> Any:
        return original(step, plan.model_copy(update={"quorum": 1}), context)

    original = patches.put(ensemble, "_concluded", concluded)


def _always_sure(patches: Patches) -> None:
    def tested(state: Any, place: int, plan: Any) -> Any:
        found = original(state, place, plan)
        return found if found.missing else replace(found, passed=True)

    original = patches.put(cascade, "tested", tested)


def _members_know_no_privacy(patches: Patches) -> None:
    def rules(*given: Any, **named: Any) -> Any:
        return replace(original(*given, **named), privacy=Privacy.PUBLIC)

    original = patches.put(panel, "rules_of", rules)


def _members_wait_for_each_other(patches: Patches) -> None:
    patches.put(publications, "CASCADE", "ensemble")


BUGS = (
    Bug("refusal_passed_over", "somebody else is asked because of a refusal", _refusal_passed_over, hint=92),
    Bug(
        "answered_and_asked_again", "a member that has answered is asked once more", _answered_and_asked_again, hint=21
    ),
    Bug("quorum_of_one", "an ensemble is content with one answer", _quorum_of_one, hint=66),
    Bug("always_sure", "an answer that was rated low is accepted", _always_sure, hint=21),
    Bug(
        "members_know_no_privacy",
        "members and rungs are chosen as if all was public",
        _members_know_no_privacy,
        hint=28,
    ),
    Bug("members_wait", "members of a session run one after another", _members_wait_for_each_other, hint=4),
)
