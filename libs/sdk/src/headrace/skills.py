"""Skills: publish them, find them, and follow changes in chosen domains."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from headrace.errors import NotUnderstood, RetryLater
from headrace.parsing import Reader
from headrace.transport import Transport

_PAGE: Final = 200
_PENDING: Final = 202


@dataclass(frozen=True, slots=True, kw_only=True)
class Skill:
    """One version of a skill.

    Attributes:
        status: live or revoked.
        body: The skill itself; None in lists, and once it is revoked.
        interests: Domains whose agents receive it.
        digest: SHA-256 of the body, in hexadecimal.
    """

    name: str
    version: int
    status: str = "live"
    title: str = ""
    summary: str = ""
    body: str | None = None
    interests: tuple[str, ...] = ()
    digest: str = ""
    author: str = ""
    submitted_at: datetime | None = None
    published_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SkillVersion:
    """One version in a skill's history; only the newest body is stored."""

    version: int
    status: str
    digest: str = ""
    author: str = ""
    published_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SkillNews:
    """A change of a skill, received from the feed.

    Attributes:
        change: published, updated or revoked.
        event_id: Where to resume after it: `feed(..., after=event_id)`.
    """

    change: str
    skill: Skill
    event_id: str


class Skills:
    """The skill broadcaster's API."""

    def __init__(self, transport: Transport, url: Callable[[], str]) -> None:
        self._transport = transport
        self._root = url

    async def publish(
        self, name: str, body: str, *, interests: Iterable[str], title: str = "", summary: str = "", author: str = ""
    ) -> Skill:
        """Publish a new version; returns when it is in the catalog. Repeating the same content makes no new version.

        Args:
            name: Lower-case words joined by hyphens.
            interests: Domains whose agents receive it.
        """
        document = {
            "name": name,
            "title": title,
            "summary": summary,
            "body": body,
            "interests": list(interests),
            "author": author,
        }
        return await self._until_in_catalog("POST", self._url(), document)

    async def get(self, name: str) -> Skill:
        """The current version of a skill, with its body. Raises NotFound."""
        return skill_of((await self._transport.call("GET", self._url(f"/{name}"))).document)

    async def versions(self, name: str) -> tuple[SkillVersion, ...]:
        """The latest versions of a skill, newest first. Raises NotFound."""
        document = (await self._transport.call("GET", self._url(f"/{name}/versions"))).document
        return tuple(
            SkillVersion(
                version=read.integer("version"),
                status=read.text("status"),
                digest=read.optional_text("digest") or "",
                author=read.optional_text("author") or "",
                published_at=read.time("published_at"),
            )
            for read in Reader(document, "the versions of a skill").objects("versions")
        )

    async def search(self, query: str = "", *, interests: Iterable[str] = (), limit: int = 20) -> tuple[Skill, ...]:
        """Live skills, without their bodies: those that match the words, best first; without words all, by name."""
        found: list[Skill] = []
        asked = [("interest", interest) for interest in interests] + ([("q", query)] if query else [])
        cursor: str | None = None
        while len(found) < limit:
            page = [*asked, ("limit", str(min(limit - len(found), _PAGE)))]
            if cursor is not None:
                page.append(("cursor", cursor))
            document = (await self._transport.call("GET", self._url(), params=page)).document
            if not isinstance(document, Mapping) or not isinstance(document.get("skills"), list):
                raise NotUnderstood("a list of skills: expected an object with skills")
            found += [skill_of(item) for item in document["skills"]]
            cursor = Reader(document, "a list of skills").optional_text("next_cursor")
            if cursor is None:
                break
        return tuple(found)

    async def revoke(self, name: str) -> Skill:
        """Revoke a skill; its agents are notified. Raises NotFound."""
        return await self._until_in_catalog("DELETE", self._url(f"/{name}"), None)

    async def feed(
        self, *interests: str, after: str = "", on_open: Callable[[], None] | None = None
    ) -> AsyncGenerator[SkillNews, None]:
        """Changes in these domains from now on, or after an event; endless, across broken connections.

        Close it with `aclose` (or `contextlib.aclosing`). `on_open` is called when the service has opened the stream:
        changes published after that will be received. Raises NotFound with status 410 when the events after `after` are
        no longer stored.
        """
        params = [("interest", interest) for interest in interests]
        stream = self._transport.events(self._url("/feed"), params=params, last_event_id=after, on_open=on_open)
        async with aclosing(stream) as events:
            async for event in events:
                news = _news_of(event.event, event.data, event.last_id)
                if news is not None:
                    yield news

    async def _until_in_catalog(self, method: str, url: str, body: Mapping[str, Any] | None) -> Skill:
        # 202: durable, but not in the catalog yet. Repeating the request changes nothing, and returns once it is.
        give_up_at = time.monotonic() + self._transport.patience_seconds
        while True:
            reply = await self._transport.call(method, url, body=body)
            if reply.status != _PENDING:
                return skill_of(reply.document)
            if time.monotonic() > give_up_at:
                raise RetryLater("the skill was accepted, but is not in the catalog yet; try again later", 1.0)
            await asyncio.sleep(0.2)

    def _url(self, path: str = "") -> str:
        return self._root().rstrip("/") + "/v1/skills" + path


def skill_of(document: Any) -> Skill:
    """A skill from JSON. Raises NotUnderstood."""
    read = Reader(document, "a skill")
    return Skill(
        name=read.text("name"),
        version=read.integer("version"),
        status=read.optional_text("status") or "live",
        title=read.optional_text("title") or "",
        summary=read.optional_text("summary") or "",
        body=read.optional_text("body"),
        interests=read.texts("interests"),
        digest=read.optional_text("digest") or "",
        author=read.optional_text("author") or "",
        submitted_at=read.time("submitted_at"),
        published_at=read.time("published_at"),
    )


def _news_of(event: str, data: str, event_id: str) -> SkillNews | None:
    try:
        document = json.loads(data)
    except ValueError:
        raise NotUnderstood(f"the skill feed sent a {event!r} that is not JSON") from None
    change = Reader(document, "a skill change").optional_text("change") or event
    if change not in ("published", "updated", "revoked"):
        return None
    return SkillNews(change=change, skill=skill_of(document), event_id=event_id)
