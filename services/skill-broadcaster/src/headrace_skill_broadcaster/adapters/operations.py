"""What the skill broadcaster's HTTP API offers, for its OpenAPI document."""

from __future__ import annotations

from typing import Any, Final

from headrace_runtime.openapi import ApiOperation, Parameter

from headrace_skill_broadcaster.adapters.skills_api import PublishRequest

ABOUT: Final = "Skills that agents learn: publish, search, read, follow."

_INTERESTS: Final[dict[str, Any]] = {"type": "array", "items": {"type": "string"}}

OPERATIONS: Final = (
    ApiOperation(
        "POST",
        "/v1/skills",
        "Publish a skill, or a new version of it",
        body=PublishRequest,
        answers={200: "Its content is what it was.", 201: "The new version.", 202: "It is on disk."},
        scope="skills",
    ),
    ApiOperation(
        "GET",
        "/v1/skills",
        "Search the skills",
        parameters=(
            Parameter("q", "Words to look for; without them all skills by name."),
            Parameter("interest", "Only skills with this interest; several are several.", "query", _INTERESTS),
            Parameter("limit", "Most skills in the answer.", "query", {"type": "integer", "minimum": 1}),
            Parameter("cursor", "`next_cursor` of the page before."),
        ),
        scope="skills",
    ),
    ApiOperation(
        "GET",
        "/v1/skills/feed",
        "Changes of skills as they happen",
        parameters=(
            Parameter("interest", "Only skills with these interests.", "query", _INTERESTS),
            Parameter("Last-Event-ID", "Go on after this event.", "header"),
        ),
        answers={200: "Server-sent events."},
        content=("text/event-stream",),
        scope="skills",
    ),
    ApiOperation(
        "GET",
        "/v1/skills/{name}",
        "One skill with its body",
        parameters=(Parameter("version", "Only if this is the newest one."),),
        scope="skills",
    ),
    ApiOperation("GET", "/v1/skills/{name}/versions", "The latest versions of a skill", scope="skills"),
    ApiOperation(
        "DELETE",
        "/v1/skills/{name}",
        "Revoke a skill",
        answers={200: "Revoked.", 202: "It is on disk."},
        scope="skills",
    ),
)
