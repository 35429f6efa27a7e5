"""Skills, versions and changes as JSON documents for callers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from headrace_contracts.content import ContentSealed, text_of
from headrace_contracts.events import Content, SkillChanged, SkillPublished


def time_text(time_ms: int) -> str:
    """Milliseconds since the epoch as RFC 3339 in UTC."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def change_document(event: SkillChanged) -> dict[str, Any]:
    """A change as the feed sends it."""
    return {
        "name": event.name,
        "version": event.version,
        "change": event.change.value,
        "interest": event.interest,
        "interests": list(event.interests),
        "title": event.title,
        "summary": event.summary,
        "body": _text(event.body),
        "digest": event.digest,
        "author": event.author,
        "submitted_at": time_text(event.submitted_at),
        "published_at": time_text(event.published_at),
    }


def summary_document(entry: SkillPublished) -> dict[str, Any]:
    """A skill without its body."""
    return {
        "name": entry.name,
        "version": entry.version,
        "status": entry.status.value,
        "title": entry.title,
        "summary": entry.summary,
        "interests": list(entry.interests),
        "digest": entry.digest,
        "author": entry.author,
        "submitted_at": time_text(entry.submitted_at),
        "published_at": time_text(entry.published_at),
    }


def skill_document(entry: SkillPublished) -> dict[str, Any]:
    """A skill with its body."""
    return {**summary_document(entry), "body": _text(entry.body)}


def history_document(entry: SkillPublished) -> dict[str, Any]:
    """The versions of a skill, newest first."""
    return {
        "name": entry.name,
        "versions": [
            {
                "version": past.version,
                "status": past.status.value,
                "digest": past.digest,
                "author": past.author,
                "published_at": time_text(past.published_at),
            }
            for past in reversed(entry.history)
        ],
    }


def _text(body: Content | None) -> str | None:
    if body is None:
        return None
    try:
        return text_of(body)
    except ContentSealed:
        # The holder of the data key reads the topic; an API without the key has nothing to show.
        return None
