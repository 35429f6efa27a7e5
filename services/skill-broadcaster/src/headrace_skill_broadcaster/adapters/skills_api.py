"""The HTTP API for skills: publish, revoke, read, search."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web
from headrace_contracts.content import plain
from headrace_contracts.events import Position, SkillAction, SkillPublished, SkillStatus, SkillSubmitted
from headrace_contracts.topics import SKILLS_SUBMITTED
from headrace_runtime import tracing
from headrace_runtime.access import Scope
from headrace_runtime.authentication import require
from headrace_runtime.http import read_model
from headrace_runtime.logging import get_logger
from headrace_runtime.problems import Problem
from headrace_streams.errors import AppendUncertain, Overloaded, RecordRefused, TransientError
from headrace_streams.publishing import Publication, Publisher
from pydantic import BaseModel, ConfigDict

from headrace_skill_broadcaster.adapters.feed_api import FeedApi
from headrace_skill_broadcaster.decide.answers import history_document, skill_document, summary_document, time_text
from headrace_skill_broadcaster.decide.catalog import CatalogUpdate, Refused, decide, outcome_of, skill_key
from headrace_skill_broadcaster.decide.quotas import over_quota
from headrace_skill_broadcaster.decide.rules import SkillLimits
from headrace_skill_broadcaster.decide.search import SearchQueryInvalid, ask
from headrace_skill_broadcaster.metrics import SkillMetrics
from headrace_skill_broadcaster.view import CatalogView

_MOST_RESULTS: Final = 200
_RETRY: Final = {"Retry-After": "1"}

_log = get_logger("headrace.skills.api")


class PublishRequest(BaseModel):
    """Body of POST /v1/skills."""

    model_config = ConfigDict(extra="forbid")

    name: str
    body: str
    title: str = ""
    summary: str = ""
    interests: list[str] = []
    digest: str | None = None
    author: str = ""


@dataclass(frozen=True, slots=True)
class ApiTools:
    """Dependencies of the API.

    Attributes:
        wait_seconds: How long a caller waits for its submission to be in the catalog.
        clock: Milliseconds since the epoch.
        new_id: Makes a new UUIDv7.
    """

    view: CatalogView
    publisher: Publisher
    limits: SkillLimits
    measures: SkillMetrics
    wait_seconds: float
    clock: Callable[[], int]
    new_id: Callable[[], str]


class SkillsApi:
    """Handlers of `/v1/skills`."""

    def __init__(self, tools: ApiTools, feed: FeedApi) -> None:
        self._tools = tools
        self._feed = feed

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.router.add_post("/v1/skills", self.publish)
        app.router.add_get("/v1/skills", self.search)
        app.router.add_get("/v1/skills/feed", self._feed.open)
        app.router.add_get("/v1/skills/{name}", self.read)
        app.router.add_get("/v1/skills/{name}/versions", self.versions)
        app.router.add_delete("/v1/skills/{name}", self.revoke)

    async def publish(self, request: web.Request) -> web.Response:
        """201 with the new version; 200 if the content is unchanged; 202 if it takes longer than the caller waits."""
        caller = require(request, Scope.SKILLS)
        draft = await read_model(request, PublishRequest)
        return await self._submit(
            SkillSubmitted(
                submission_id=self._tools.new_id(),
                tenant=caller.tenant,
                name=draft.name,
                action=SkillAction.PUBLISH,
                title=draft.title,
                summary=draft.summary,
                body=plain(draft.body),
                interests=tuple(draft.interests),
                digest=draft.digest,
                author=draft.author,
                submitted_at=self._tools.clock(),
            )
        )

    async def revoke(self, request: web.Request) -> web.Response:
        """200 with the revoked skill; 202 if it takes longer than the caller waits."""
        caller = require(request, Scope.SKILLS)
        entry = self._entry(caller.tenant, request)
        if entry.status is SkillStatus.REVOKED:
            return web.json_response(skill_document(entry))
        return await self._submit(
            SkillSubmitted(
                submission_id=self._tools.new_id(),
                tenant=caller.tenant,
                name=entry.name,
                action=SkillAction.REVOKE,
                submitted_at=self._tools.clock(),
            )
        )

    async def read(self, request: web.Request) -> web.Response:
        """The skill with its body. Only the newest version's body is stored."""
        caller = require(request, Scope.SKILLS)
        entry = self._entry(caller.tenant, request)
        asked = request.query.get("version")
        if asked is not None and asked != str(entry.version):
            raise _version_not_kept(asked, entry)
        return web.json_response(skill_document(entry), headers={"ETag": f'"{entry.version}-{entry.digest[:16]}"'})

    async def versions(self, request: web.Request) -> web.Response:
        """The latest versions, newest first."""
        caller = require(request, Scope.SKILLS)
        return web.json_response(history_document(self._entry(caller.tenant, request)))

    async def search(self, request: web.Request) -> web.Response:
        """A page of live skills: by rank with `q`, else by name."""
        caller = require(request, Scope.SKILLS)
        query = request.query
        try:
            question = ask(
                caller.tenant,
                query.get("q", ""),
                tuple(dict.fromkeys(query.getall("interest", []))),
                _whole_number(query.get("limit", "20")),
                _MOST_RESULTS,
                query.get("cursor"),
            )
        except SearchQueryInvalid as error:
            raise Problem(400, "invalid-request", f"{error}.", param=error.parameter) from None
        with self._tools.measures.searched.time():
            entries, cursor = await self._tools.view.search(question)
        return web.json_response({"skills": [summary_document(entry) for entry in entries], "next_cursor": cursor})

    async def _submit(self, submission: SkillSubmitted) -> web.Response:
        self._expect_acceptable(submission)
        entry: SkillPublished | None = None
        acknowledged = False
        with self._tools.view.expecting(submission.submission_id) as outcome:
            try:
                async with asyncio.timeout(self._tools.wait_seconds):
                    await self._send(submission)
                    acknowledged = True
                    entry = await outcome
            except TimeoutError:
                if not acknowledged:
                    raise _unavailable() from None
        if entry is None:
            return web.json_response(
                {
                    "name": submission.name,
                    "status": "pending",
                    "submission_id": submission.submission_id,
                    "detail": "The submission is on disk and will be in the catalog soon.",
                },
                status=202,
                headers={"Location": f"/v1/skills/{submission.name}"},
            )
        result = outcome_of(entry)
        document: dict[str, Any] = {
            **summary_document(entry),
            "outcome": result,
            "submission_id": submission.submission_id,
        }
        created = result in ("published", "updated")
        return web.json_response(
            document, status=201 if created else 200, headers={"Location": f"/v1/skills/{entry.name}"}
        )

    def _expect_acceptable(self, submission: SkillSubmitted) -> None:
        """Raises Problem 422 for a submission that can never become a skill, and 403 if the tenant has as many skills,
        or bytes of them, as it may."""
        view, limits = self._tools.view, self._tools.limits
        current = view.get(submission.tenant, submission.name)
        nowhere = Position(topic=SKILLS_SUBMITTED.name, partition=0, next_offset=0)
        decision = decide(current, submission, nowhere, submission.submitted_at, limits)
        match decision:
            case Refused(flaw):
                raise Problem(422, "invalid-skill", f"{flaw}.", param=flaw.field, extra={"field": flaw.field})
            case CatalogUpdate(entry):
                held = view.held_by(submission.tenant)
                if (over := over_quota(held, current, entry, limits)) is not None:
                    extra = {"skills": held.skills, "bytes": held.bytes}
                    raise Problem(403, "quota-exceeded", f"{over}.", param=over.field, extra=extra)

    async def _send(self, submission: SkillSubmitted) -> None:
        headers = dict(tracing.inject([]))
        traceparent = headers.get("traceparent")
        try:
            await self._tools.publisher.send(
                Publication(
                    spec=SKILLS_SUBMITTED,
                    event=submission,
                    event_id=submission.submission_id,
                    key=skill_key(submission.tenant, submission.name).encode(),
                    tenant=submission.tenant,
                    time_ms=submission.submitted_at,
                    subject=submission.name,
                    traceparent=None if traceparent is None else traceparent.decode(),
                )
            )
        except RecordRefused as error:
            _log.error("Kafka refused a submission", reason=str(error))
            raise Problem(
                413, "skill-too-large", "Kafka does not accept a record of this size: shorten the body."
            ) from None
        except (TransientError, AppendUncertain, Overloaded) as error:
            _log.warning("a submission could not be written", reason=str(error))
            raise _unavailable() from None

    def _entry(self, tenant: str, request: web.Request) -> SkillPublished:
        entry = self._tools.view.get(tenant, request.match_info["name"])
        if entry is None:
            raise Problem(404, "skill-unknown", "There is no skill with this name; GET /v1/skills lists all.")
        return entry


def _version_not_kept(asked: str, entry: SkillPublished) -> Problem:
    known = next((past for past in entry.history if str(past.version) == asked), None)
    if known is None:
        return Problem(404, "version-unknown", f"The newest version of this skill is {entry.version}.")
    return Problem(
        404,
        "version-not-kept",
        f"Only the newest version, {entry.version}, is stored with its body; "
        f"GET /v1/skills/{entry.name}/versions lists the others.",
        extra={"digest": known.digest, "published_at": time_text(known.published_at)},
    )


def _unavailable() -> Problem:
    return Problem(
        503,
        "accept-uncertain",
        "Kafka did not acknowledge the submission in time: repeat it; the same content makes no second version.",
        headers=_RETRY,
    )


def _whole_number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 10 else 0
