"""What a policy decides about a recorded task. Pure: the router's own decision, on a fleet that is told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from headrace_contracts.events import ModelStatus, NodeStatus, Place, PolicyPublished, Preferences, Privacy, TaskPhase
from headrace_models.prices import PriceBook
from headrace_router.adapters.published_policies import PublishedPolicies
from headrace_router.decide.fleet import Fleet
from headrace_router.decide.machine import decide
from headrace_router.decide.model import Decision, DecisionContext, NoOtherTasks, Submitted
from headrace_router.decide.policy import Policy
from headrace_router.decide.revisions import INSTALLATION

from headrace_devstack.replay.recorded import ModelName, Recorded, first_attempts

_ALWAYS_MS: Final = 2**62
SEARCHES_FIRST: Final = "searches first"
WAITS: Final = "waits"


@dataclass(frozen=True, slots=True)
class ReplayedDecision:
    """What is decided about a task first.

    Attributes:
        sent_to: The models that it is sent to; empty if to none.
        otherwise: What becomes of it if it is sent to none: the code of its failure, or that it waits.
        leaves: Whether its text goes to a provider that is not ours.
        privacy: The level that applies.
    """

    sent_to: tuple[ModelName, ...] = ()
    otherwise: str = ""
    leaves: bool = False
    privacy: Privacy = Privacy.SENSITIVE

    @property
    def name(self) -> str:
        """In words."""
        return " + ".join("/".join(each) for each in self.sent_to) or self.otherwise


class Decider:
    """Decides about recorded tasks by one policy.

    Args:
        policy: The installation's.
        published: The topic `policies`: what tenants narrow counts under any policy of the installation.
        reports: The fleet's, however old: what any of them offers can be used, but where a decision says that it
            could not be at that time.
        assumed: What can be used as well, though no report offers it.
        preferences: By their keys.
    """

    def __init__(
        self,
        policy: Policy,
        published: Mapping[str, PolicyPublished],
        reports: Iterable[NodeStatus],
        prices: PriceBook,
        *,
        assumed: Iterable[ModelName] = (),
        preferences: Mapping[str, Preferences] | None = None,
    ) -> None:
        self._policies = PublishedPolicies(policy)
        for key, revision in published.items():
            if revision.scope != INSTALLATION:
                self._policies.apply(key, revision)
        self._reports = [replace(each, healthy=True) for each in reports]
        self._reports += [
            NodeStatus(
                node=f"assumed-{number}", worker="replay", provider=provider, place=policy.place(provider),
                models=(ModelStatus(name=model),), healthy=True, slots=1, reported_at=0, valid_for_ms=0,
            )
            for number, (provider, model) in enumerate(assumed)
        ]  # fmt: skip
        self._prices = prices
        self._preferences = preferences or {}
        self._fleets: dict[frozenset[ModelName], Fleet] = {}

    @property
    def policy(self) -> Policy:
        """The installation's."""
        return self._policies.policy

    def decide(self, recorded: Recorded) -> ReplayedDecision:
        """What becomes of a task first."""
        task = recorded.task
        policy = self._policies.of(task.tenant)
        context = DecisionContext(
            now=task.submitted_at,
            policy=policy,
            prices=self._prices,
            fleet=self._fleet_without(recorded.unavailable),
            peers=NoOtherTasks(),
            user_preferences=self._preferences.get(f"{task.tenant}/{task.user}") if task.user else None,
            tenant_preferences=self._preferences.get(f"{task.tenant}/"),
        )
        decision = decide(None, Submitted(task, recorded.key, recorded.partition), context)
        assert isinstance(decision, Decision), "the end of a submission is always a decision"
        state = decision.state
        if attempts := first_attempts(state):
            sent = tuple((each.provider, each.model) for each in attempts)
            leaves = any(each.place is not Place.LOCAL for each in attempts)
            return ReplayedDecision(sent, leaves=leaves, privacy=state.privacy)
        if state.phase is TaskPhase.SEARCHING:
            return ReplayedDecision(otherwise=SEARCHES_FIRST, privacy=state.privacy)
        if state.result is not None and state.result.failure is not None:
            return ReplayedDecision(otherwise=state.result.failure.code, privacy=state.privacy)
        return ReplayedDecision(otherwise=WAITS, privacy=state.privacy)

    def _fleet_without(self, unavailable: frozenset[ModelName]) -> Fleet:
        found = self._fleets.get(unavailable)
        if found is None:
            found = self._fleets[unavailable] = Fleet(
                replace(
                    each,
                    valid_for_ms=_ALWAYS_MS,
                    models=tuple(model for model in each.models if (each.provider, model.name) not in unavailable),
                )
                for each in self._reports
            )
        return found
