"""Builders for tests of routing: tasks, nodes, ends of attempts, and the context of a decision."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from headrace_contracts.content import plain
from headrace_contracts.events import (
    AttemptFinished,
    Failure,
    Message,
    ModelStatus,
    NodeStatus,
    Outcome,
    Place,
    Preferences,
    TaskCancelled,
    TaskPhase,
    TaskState,
    TaskSubmitted,
    Usage,
)
from headrace_contracts.ids import attempt_id
from headrace_contracts.switches import ALL_ON, Switches
from headrace_models.prices import load_price_book
from headrace_router.adapters.policy_file import load_policy
from headrace_router.decide.attempt_windows import DEFAULT_WINDOW, NOTHING_OUT, AttemptWindow, OutNow
from headrace_router.decide.fleet import Fleet
from headrace_router.decide.machine import decide
from headrace_router.decide.model import (
    AttemptEnded,
    Cancelled,
    Decision,
    DecisionContext,
    Disbelieved,
    Equal,
    Ignored,
    Noted,
    RouterEvent,
    Submitted,
    WakeUp,
)
from headrace_router.decide.policy import Policy
from headrace_router.decide.tenant_quota import DEFAULT_QUOTA, NO_LOAD, LiveLoad, TenantQuota

NOW = 1_760_000_000_000
TASK_ID = "0199b9d0-0000-7000-8000-000000000001"
GROQ = "groq/llama-3.3-70b-versatile"
ANTHROPIC = "anthropic/claude-haiku-4-5"


def task(task_id: str = TASK_ID, text: str = "How deep is the lake?", **fields: Any) -> TaskSubmitted:
    return TaskSubmitted(
        **{
            "task_id": task_id,
            "tenant": "acme",
            "messages": (Message(role="user", content=plain(text)),),
            "submitted_at": NOW,
            **fields,
        }
    )


def node(
    name: str = "workstation", provider: str = "ollama", models: Iterable[str] = ("gemma2:2b",), **fields: Any
) -> NodeStatus:
    return NodeStatus(
        **{
            "node": name,
            "place": Place.LOCAL if provider == "ollama" else Place.CLOUD,
            "provider": provider,
            "healthy": True,
            "models": tuple(ModelStatus(name=model) for model in models),
            "reported_at": NOW,
            "valid_for_ms": 10**12,
            **fields,
        }
    )


LOCAL = node(models=["gemma2:2b", "phi3:3.8b", "qwen2.5-coder:1.5b", "qwen2.5-coder:7b", "llama3:8b"])
GROQ_NODE = node("groq", "groq", ["llama-3.3-70b-versatile", "llama-3.1-8b-instant"])
ANTHROPIC_NODE = node("anthropic", "anthropic", ["claude-haiku-4-5"])
SEARCH_WEB = node("metasearch", "searxng", ["web"], place=Place.LOCAL)
SEARCH_INSIDE = node("intranet", "searxng", ["inside"], place=Place.LOCAL)
TAVILY_NODE = node("tavily", "tavily", ["tavily-search"])
EVERYWHERE = (LOCAL, GROQ_NODE, ANTHROPIC_NODE)
CLOUD = (GROQ_NODE, ANTHROPIC_NODE)


def preferences(**fields: Any) -> Preferences:
    return Preferences(**{"tenant": "acme", "updated_at": NOW, **fields})


def finished(
    outcome: Outcome = Outcome.ANSWERED, number: int = 1, *, task_id: str = TASK_ID, **fields: Any
) -> AttemptFinished:
    answered = outcome in (Outcome.ANSWERED, Outcome.REFUSED)
    return AttemptFinished(
        **{
            "attempt_id": attempt_id(task_id, number),
            "task_id": task_id,
            "tenant": "acme",
            "number": number,
            "home_partition": 0,
            "execution_id": "e1",
            "outcome": outcome,
            "content": plain("Deep enough.") if answered else None,
            "finish_reason": "stop" if outcome is Outcome.ANSWERED else None,
            "failure": None if answered else Failure(code="provider_error", message="it failed"),
            "provider": "ollama",
            "model": "gemma2:2b",
            "usage": Usage(input_tokens=10, output_tokens=5),
            "finished_at": NOW,
            **fields,
        }
    )


def cancelled(task_id: str = TASK_ID, tenant: str = "acme") -> TaskCancelled:
    return TaskCancelled(task_id=task_id, tenant=tenant, requested_by="operator", requested_at=NOW)


@dataclass
class NoPeers:
    """Peers defined by a test."""

    equal: Equal = field(default_factory=Equal)
    load: LiveLoad = NO_LOAD
    outside: OutNow = NOTHING_OUT
    last_turn: int = 0
    places: Mapping[str, int] = field(default_factory=dict)
    session_site: str | None = None

    def equal_to(self, digest: str, now: int) -> Equal:
        assert digest
        assert now >= NOW
        return self.equal

    def load_of(self, tenant: str) -> LiveLoad:
        return self.load

    def out(self, tenant: str, topic: str) -> OutNow:
        return self.outside

    def attempts_in(self, topic: str) -> int:
        return self.places.get(topic, 0)

    def site_of_session(self, tenant: str, session: str, but: str) -> str | None:
        return self.session_site


@dataclass
class Desk:
    """Makes the decisions about one task, one after another."""

    fleet: Iterable[NodeStatus] = EVERYWHERE
    policy: Policy = field(default_factory=lambda: load_policy(None))
    now: int = NOW
    user: Preferences | None = None
    tenant: Preferences | None = None
    peers: NoPeers = field(default_factory=NoPeers)
    quota: TenantQuota = DEFAULT_QUOTA
    window: AttemptWindow = DEFAULT_WINDOW
    switches: Switches = ALL_ON
    state: TaskState | None = None
    decisions: list[Decision] = field(default_factory=list)

    @property
    def context(self) -> DecisionContext:
        return DecisionContext(
            now=self.now,
            policy=self.policy,
            prices=load_price_book(),
            fleet=Fleet(self.fleet),
            peers=self.peers,
            user_preferences=self.user,
            tenant_preferences=self.tenant,
            quota=self.quota,
            window=self.window,
            switches=self.switches,
        )

    def give(self, event: RouterEvent) -> Decision | Noted | Ignored | Disbelieved:
        result = decide(self.state, event, self.context)
        if isinstance(result, Decision):
            self.state = result.state
            self.decisions.append(result)
        return result

    def decide(self, event: RouterEvent) -> Decision:
        result = self.give(event)
        assert isinstance(result, Decision), result
        return result

    def submit(self, submitted: TaskSubmitted | None = None, **fields: Any) -> Decision:
        return self.decide(Submitted(submitted or task(**fields), b"key", 3))

    def end(self, outcome: Outcome, **fields: Any) -> Decision:
        """End the newest attempt."""
        assert self.state is not None
        last = self.state.attempts[-1]
        fields = {"provider": last.provider, "model": last.model, **fields}
        return self.decide(AttemptEnded(finished(outcome, last.number, **fields)))

    def wake(self) -> Decision:
        """Advance the clock to the task's wake-up time, and wake it."""
        assert self.state is not None
        assert self.state.wake_at is not None
        self.now = max(self.now, self.state.wake_at)
        return self.decide(WakeUp())

    def cancel(self) -> Decision:
        return self.decide(Cancelled(cancelled()))

    @property
    def sent_to(self) -> list[str]:
        """All attempts so far, as provider/model."""
        last = self.state
        if last is None:
            return []
        if last.phase is TaskPhase.FINISHED:
            assert last.result is not None
            return [f"{step.provider}/{step.model}" for step in last.result.trail if step.step == "dispatched"]
        return [f"{attempt.provider}/{attempt.model}" for attempt in last.attempts]


def without(fleet: Iterable[NodeStatus], provider: str) -> tuple[NodeStatus, ...]:
    """The fleet without a provider's nodes."""
    return tuple(replace(item, healthy=False) if item.provider == provider else item for item in fleet)
