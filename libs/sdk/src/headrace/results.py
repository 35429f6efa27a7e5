"""The services' responses as frozen values. Status words stay text: a newer service may have more of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Final

NANODOLLARS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why there is no answer: a stable code for programs, and words for people."""

    code: str
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Total consumption of all attempts of a task, in tokens, and the number of web searches.

    Attributes:
        input_tokens: All tokens read; the cached and the written ones are part of them.
        cached_input_tokens: Those that came from a provider's prompt cache.
        cache_write_5m_tokens, cache_write_1h_tokens: Those written to it, to be kept for 5 minutes or 1 hour.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    searches: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrailStep:
    """One step of a task, and its reason."""

    at: datetime
    step: str
    provider: str | None = None
    model: str | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task as reported by intake. What is not known yet is None.

    Attributes:
        status: accepted until it ends; then succeeded, refused, failed, cancelled or expired.
        privacy, priority: The values that were applied.
        served_from: attempt, cache, coalesced or nothing.
        source_task_id: The equal task whose answer was used.
        simulated: Whether a simulator answered instead of a model.
        cost_nanodollars: Cost of all attempts, in nano-dollars.
        model_ms: Duration of the answering attempt's model call, in milliseconds.
        trail: Decisions about the task with their reasons; empty in lists.
    """

    id: str
    status: str
    kind: str = ""
    role: str | None = None
    requested_model: str | None = None
    user: str = ""
    session: str | None = None
    subject: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    privacy: str | None = None
    priority: str | None = None
    submitted_at: datetime | None = None
    deadline_at: datetime | None = None
    completed_at: datetime | None = None
    answer: str | None = None
    finish_reason: str | None = None
    failure: Failure | None = None
    provider: str | None = None
    model: str | None = None
    node: str | None = None
    simulated: bool = False
    served_from: str | None = None
    source_task_id: str | None = None
    usage: Usage = Usage()
    cost_nanodollars: int = 0
    attempts: int = 0
    model_ms: float = 0.0
    trail: tuple[TrailStep, ...] = ()
    policy_version: str | None = None

    @property
    def ended(self) -> bool:
        """Whether it has its terminal state."""
        return self.status != "accepted"

    @property
    def answered(self) -> bool:
        """Whether a model answered; a refusal by its safety system is an answer."""
        return self.status in ("succeeded", "refused")

    @property
    def cost_usd(self) -> Decimal:
        """The cost in dollars, exact."""
        return Decimal(self.cost_nanodollars) / NANODOLLARS

    @property
    def why(self) -> str:
        """The last reason in the trail for where it ran, in words."""
        reasons = [step.reason for step in self.trail if step.reason and step.step != "finished"]
        return reasons[-1] if reasons else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPage:
    """One page of a list, newest first; `next` is the cursor of the following page, None on the last."""

    tasks: tuple[Task, ...]
    next: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferences:
    """How a tenant, or one of its users, wants work done.

    Attributes:
        ai_mode: local, cloud or hybrid; None: the default applies.
        privacy_level: high, standard or low; None: the default applies.
        allowed_providers: Providers that may receive internal content.
        source: Which record this is: user, tenant or default.
    """

    ai_mode: str | None = None
    privacy_level: str | None = None
    preferred_provider: str | None = None
    allowed_providers: tuple[str, ...] = ()
    user: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """An API key as listed: without its secret."""

    id: str
    tenant: str
    name: str = ""
    scopes: tuple[str, ...] = ()
    requests_per_minute: int | None = None
    created_at: datetime | None = None
    revoked_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """A new key. `key` is shown only this once; it does not appear in the representation."""

    info: Key
    key: str = field(repr=False)
