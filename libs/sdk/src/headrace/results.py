"""What the services answer, as frozen values. Fields that a newer service adds are ignored; status words stay text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from headrace.errors import NotUnderstood

NANODOLLARS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why there is no answer: a stable code for programs, and words for people."""

    code: str
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What all attempts of a task consumed, in tokens, and how many web searches they made."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    searches: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrailStep:
    """One step on a task's way, and why."""

    at: datetime
    step: str
    provider: str | None = None
    model: str | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task as intake shows it. What is not known yet is None.

    Attributes:
        status: accepted until it ends; then succeeded, refused, failed, cancelled or expired.
        privacy, priority: As they were applied.
        served_from: attempt, cache, coalesced or nothing.
        source_task_id: The equal task whose answer served.
        simulated: Whether a simulator answered instead of a model.
        cost_nanodollars: What all attempts cost, in nano-dollars.
        model_ms: How long the answering attempt took at the model, in milliseconds.
        trail: Why it went where it went; empty in lists.
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
        """The last reason in the trail that led to where it ran, in words."""
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
        allowed_providers: Where internal content may go.
        source: Whose record this is: user, tenant or default.
    """

    ai_mode: str | None = None
    privacy_level: str | None = None
    preferred_provider: str | None = None
    allowed_providers: tuple[str, ...] = ()
    user: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """An API key as it is listed: without its secret."""

    id: str
    tenant: str
    name: str = ""
    scopes: tuple[str, ...] = ()
    requests_per_minute: int | None = None
    created_at: datetime | None = None
    revoked_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """A key just made. `key` is shown this once; it does not appear in the representation."""

    info: Key
    key: str = field(repr=False)


class Reader:
    """Reads one JSON object, and raises NotUnderstood for what is not as the API says."""

    def __init__(self, document: Any, what: str) -> None:
        if not isinstance(document, Mapping):
            raise NotUnderstood(f"{what}: expected an object, got {type(document).__name__}")
        self._document = document
        self._what = what

    def text(self, name: str) -> str:
        value = self._document.get(name)
        if not isinstance(value, str):
            raise self._wrong(name, "text", value)
        return value

    def optional_text(self, name: str) -> str | None:
        value = self._document.get(name)
        if value is not None and not isinstance(value, str):
            raise self._wrong(name, "text or null", value)
        return value

    def integer(self, name: str, default: int = 0) -> int:
        value = self._document.get(name)
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool):
            raise self._wrong(name, "a whole number", value)
        return value

    def optional_integer(self, name: str) -> int | None:
        return None if self._document.get(name) is None else self.integer(name)

    def number(self, name: str) -> float:
        value = self._document.get(name)
        if value is None:
            return 0.0
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self._wrong(name, "a number", value)
        return float(value)

    def flag(self, name: str) -> bool:
        return self._document.get(name) is True

    def time(self, name: str) -> datetime | None:
        """RFC 3339, as an aware datetime in UTC."""
        value = self.optional_text(name)
        if value is None:
            return None
        try:
            return datetime.fromisoformat(value.replace("Z", "+00:00")).astimezone(UTC)
        except ValueError:
            raise self._wrong(name, "a time", value) from None

    def texts(self, name: str) -> tuple[str, ...]:
        return tuple(str(item) for item in self._list(name))

    def text_map(self, name: str) -> dict[str, str]:
        value = self._document.get(name)
        return {str(key): str(item) for key, item in value.items()} if isinstance(value, Mapping) else {}

    def object(self, name: str) -> Reader | None:
        value = self._document.get(name)
        return None if value is None else Reader(value, f"{self._what}, {name}")

    def objects(self, name: str) -> list[Reader]:
        return [Reader(item, f"{self._what}, {name}") for item in self._list(name)]

    def _list(self, name: str) -> Sequence[Any]:
        value = self._document.get(name)
        if value is None:
            return ()
        if not isinstance(value, list):
            raise self._wrong(name, "a list", value)
        return value

    def _wrong(self, name: str, expected: str, value: Any) -> NotUnderstood:
        return NotUnderstood(f"{self._what}: {name} should be {expected}, got {type(value).__name__}")


def task_of(document: Any) -> Task:
    """A task from intake's JSON. Raises NotUnderstood."""
    read = Reader(document, "a task")
    usage, failure = read.object("usage"), read.object("failure")
    return Task(
        id=read.text("id"),
        status=read.text("status"),
        kind=read.optional_text("kind") or "",
        role=read.optional_text("role"),
        requested_model=read.optional_text("requested_model"),
        user=read.optional_text("user") or "",
        session=read.optional_text("session"),
        subject=read.optional_text("subject"),
        labels=read.text_map("labels"),
        privacy=read.optional_text("privacy"),
        priority=read.optional_text("priority"),
        submitted_at=read.time("submitted_at"),
        deadline_at=read.time("deadline_at"),
        completed_at=read.time("completed_at"),
        answer=read.optional_text("answer"),
        finish_reason=read.optional_text("finish_reason"),
        failure=None
        if failure is None
        else Failure(code=failure.text("code"), message=failure.optional_text("message") or ""),
        provider=read.optional_text("provider"),
        model=read.optional_text("model"),
        node=read.optional_text("node"),
        simulated=read.flag("simulated"),
        served_from=read.optional_text("served_from"),
        source_task_id=read.optional_text("source_task_id"),
        usage=Usage()
        if usage is None
        else Usage(
            input_tokens=usage.integer("input_tokens"),
            output_tokens=usage.integer("output_tokens"),
            cached_input_tokens=usage.integer("cached_input_tokens"),
            searches=usage.integer("searches"),
        ),
        cost_nanodollars=read.integer("cost_nanodollars"),
        attempts=read.integer("attempts"),
        model_ms=read.number("model_ms"),
        trail=tuple(_step_of(step) for step in read.objects("trail")),
        policy_version=read.optional_text("policy_version"),
    )


def _step_of(read: Reader) -> TrailStep:
    at = read.time("at")
    if at is None:
        raise NotUnderstood("a task, trail: a step has no time")
    return TrailStep(
        at=at,
        step=read.text("step"),
        provider=read.optional_text("provider"),
        model=read.optional_text("model"),
        reason=read.optional_text("reason") or "",
    )


def task_page_of(document: Any) -> TaskPage:
    """A page of tasks. Raises NotUnderstood."""
    if not isinstance(document, Mapping) or not isinstance(document.get("tasks"), list):
        raise NotUnderstood("a page of tasks: expected an object with tasks")
    read = Reader(document, "a page of tasks")
    return TaskPage(tasks=tuple(task_of(item) for item in document["tasks"]), next=read.optional_text("next"))


def preferences_of(document: Any) -> Preferences:
    """Preferences. Raises NotUnderstood."""
    read = Reader(document, "preferences")
    return Preferences(
        ai_mode=read.optional_text("ai_mode"),
        privacy_level=read.optional_text("privacy_level"),
        preferred_provider=read.optional_text("preferred_provider"),
        allowed_providers=read.texts("allowed_providers"),
        user=read.optional_text("user") or "",
        source=read.optional_text("source") or "",
    )


def key_of(document: Any) -> Key:
    """A key as listed. Raises NotUnderstood."""
    read = Reader(document, "a key")
    return Key(
        id=read.optional_text("id") or read.text("key_id"),
        tenant=read.text("tenant"),
        name=read.optional_text("name") or "",
        scopes=read.texts("scopes"),
        requests_per_minute=read.optional_integer("requests_per_minute"),
        created_at=read.time("created_at"),
        revoked_at=read.time("revoked_at"),
    )
