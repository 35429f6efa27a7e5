"""Parses the services' JSON into `headrace.results`. Fields added by newer services are ignored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

from headrace.errors import NotUnderstood
from headrace.message_documents import message_of
from headrace.messages import Message, RefusalText, Text
from headrace.results import (
    AnswerChoice,
    Cascade,
    Citation,
    Ensemble,
    Failure,
    Key,
    Preferences,
    Task,
    TaskPage,
    TeamMember,
    TrailStep,
    Usage,
)


class Reader:
    """Reads one JSON object; raises NotUnderstood for whatever does not match the API."""

    def __init__(self, document: Any, what: str) -> None:
        if not isinstance(document, Mapping):
            raise NotUnderstood(f"{what}: expected an object, got {type(document).__name__}")
        self._document = document
        self._what = what

    def value(self, name: str) -> Any:
        """Whatever is there."""
        return self._document.get(name)

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

    def optional_number(self, name: str) -> float | None:
        return None if self._document.get(name) is None else self.number(name)

    def numbers(self, name: str) -> tuple[float, ...]:
        values = self._list(name)
        for value in values:
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise self._wrong(name, "a list of numbers", value)
        return tuple(map(float, values))

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


def usage_of(read: Reader) -> Usage:
    """What was consumed, by kind. Raises NotUnderstood."""
    return Usage(**{entry.name: read.integer(entry.name) for entry in fields(Usage)})


def _choices_of(read: Reader, answer: str | None) -> tuple[AnswerChoice, ...]:
    found = [_choice_of(one) for one in read.objects("choices")]
    if not found and answer is not None:
        # An intake of an earlier release knows only the text of the answer.
        said = RefusalText(answer) if read.optional_text("status") == "refused" else Text(answer)
        found = [AnswerChoice(message=Message("assistant", (said,)), finish_reason=read.optional_text("finish_reason"))]
    return tuple(found)


def _choice_of(read: Reader) -> AnswerChoice:
    said, logprobs = read.value("message"), read.object("logprobs")
    try:
        message = message_of(said if isinstance(said, Mapping) else {})
    except ValueError as error:
        raise NotUnderstood(f"a task, choices: {error}") from None
    cited = [one.object("url_citation") for one in Reader(said, "a task, choices, message").objects("annotations")]
    return AnswerChoice(
        index=read.integer("index"),
        message=message,
        finish_reason=read.optional_text("finish_reason"),
        logprobs=() if logprobs is None else tuple(logprobs.value("content") or ()),
        citations=tuple(
            Citation(
                url=one.optional_text("url") or "",
                title=one.optional_text("title") or "",
                start=one.optional_integer("start_index"),
                end=one.optional_integer("end_index"),
            )
            for one in cited
            if one is not None
        ),
    )


def task_of(document: Any) -> Task:
    """Parse a task from intake's JSON. Raises NotUnderstood."""
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
        choices=_choices_of(read, read.optional_text("answer")),
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
        usage=Usage() if usage is None else usage_of(usage),
        cost_nanodollars=read.integer("cost_nanodollars"),
        attempts=read.integer("attempts"),
        model_ms=read.number("model_ms"),
        trail=tuple(_step_of(step) for step in read.objects("trail")),
        policy_version=read.optional_text("policy_version"),
        ensemble=_ensemble_of(read.object("ensemble")),
        cascade=_cascade_of(read.object("cascade")),
    )


def _ensemble_of(read: Reader | None) -> Ensemble | None:
    if read is None:
        return None
    return Ensemble(
        members=tuple(map(_member_of, read.objects("members"))),
        answered=read.integer("answered"),
        combined_by=read.optional_text("combined_by") or "",
        coherence=read.optional_number("coherence"),
        goal=read.optional_number("goal"),
    )


def _cascade_of(read: Reader | None) -> Cascade | None:
    if read is None:
        return None
    return Cascade(
        members=tuple(map(_member_of, read.objects("members"))),
        rungs=read.integer("rungs"),
        rung=read.integer("rung"),
        sufficient=read.flag("sufficient"),
        confidence=read.optional_number("confidence"),
        reason=read.optional_text("reason") or "",
        saved_nanodollars=read.integer("saved_nanodollars"),
    )


def _member_of(read: Reader) -> TeamMember:
    return TeamMember(
        part=read.text("part"),
        provider=read.optional_text("provider"),
        model=read.optional_text("model"),
        node=read.optional_text("node"),
        outcome=read.optional_text("outcome"),
        score=read.optional_number("score"),
        cost_nanodollars=read.integer("cost_nanodollars"),
        model_ms=read.number("model_ms"),
        chosen=read.flag("chosen"),
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
