"""Skills: publish them, find them, and be told of changes in the domains one cares for."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from headrace.errors import NotUnderstood
from headrace.results import Reader
from headrace.transport import Transport


@dataclass(frozen=True, slots=True, kw_only=True)
class Skill:
    """A skill in one version.

    Attributes:
        status: live or revoked.
        body: The skill itself; None in lists, and once it is revoked.
        interests: Domains whose agents get it.
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
class SkillNews:
    """A change of a skill, as it came over the feed.

    Attributes:
        change: published, updated or revoked.
        event_id: Where to go on after it: `feed(..., after=event_id)`.
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
        """Publish a new version; returns when it is in the catalog. The same content again makes no new version.

        Args:
            name: Lower-case words joined by hyphens.
            interests: Domains whose agents get it.
        """
        document = {
            "name": name,
            "title": title,
            "summary": summary,
            "body": body,
            "interests": list(interests),
            "author": author,
        }
        return skill_of((await self._transport.call("POST", self._url(), body=document)).document)

    async def get(self, name: str, version: int | None = None) -> Skill:
        """A skill with its body, in its newest version or in the one asked for. Raises NotFound."""
        params = None if version is None else {"version": str(version)}
        return skill_of((await self._transport.call("GET", self._url(f"/{name}"), params=params)).document)

    async def search(self, query: str = "", *, interest: str | None = None, limit: int = 20) -> tuple[Skill, ...]:
        """Live skills that match all words, best first; without words all of them."""
        params = {"limit": str(limit)}
        if query:
            params["q"] = query
        if interest:
            params["interest"] = interest
        document = (await self._transport.call("GET", self._url(), params=params)).document
        if not isinstance(document, dict) or not isinstance(document.get("skills"), list):
            raise NotUnderstood("a list of skills: expected an object with skills")
        return tuple(skill_of(item) for item in document["skills"])

    async def revoke(self, name: str) -> Skill:
        """Take a skill out of use; its agents are told. Raises NotFound."""
        return skill_of((await self._transport.call("DELETE", self._url(f"/{name}"))).document)

    async def feed(self, *interests: str, after: str = "") -> AsyncGenerator[SkillNews, None]:
        """Changes in these domains from now on, or after an event; without end, across broken connections.

        Close it with `aclose` (or `contextlib.aclosing`). Raises NotFound with status 410 when what follows `after` is
        no longer kept.
        """
        params = [("interest", interest) for interest in interests]
        async with aclosing(self._transport.events(self._url("/feed"), params=params, last_event_id=after)) as events:
            async for event in events:
                news = _news_of(event.event, event.data, event.last_id)
                if news is not None:
                    yield news

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
