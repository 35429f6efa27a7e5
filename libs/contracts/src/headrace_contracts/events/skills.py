"""Events of the domain skills.

Generated from schemas/ by `make generate`; edit the schemas instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from headrace_contracts.events.common import Content, Position
from headrace_contracts.frozen import cheaply_made


class SkillAction(StrEnum):
    """What a submission asks for."""

    PUBLISH = "publish"
    REVOKE = "revoke"


class SkillChange(StrEnum):
    """What happened to a skill."""

    PUBLISHED = "published"
    UPDATED = "updated"
    REVOKED = "revoked"


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class SkillChanged:
    """A change of a skill, published to the agents of one domain.

    Attributes:
        interest: Domain this copy is for.
        tenant: Tenant of the skill.
        name: Name of the skill.
        version: Its version.
        change: What happened.
        title: Title, one line.
        summary: What the skill is good for.
        body: The skill itself, null when it was revoked.
        interests: All domains of this version; if this copy's domain is not among them, the skill has left it.
        digest: SHA-256 of the body in hex.
        author: Agent that learned it.
        submitted_at: When it was submitted. Milliseconds since the epoch, UTC.
        published_at: When it was published. Milliseconds since the epoch, UTC.
    """

    FULL_NAME: ClassVar[str] = "headrace.skills.SkillChanged"

    interest: str
    tenant: str
    name: str
    version: int
    change: SkillChange
    title: str = ''
    summary: str = ''
    body: Content | None = None
    interests: tuple[str, ...] = ()
    digest: str
    author: str = ''
    submitted_at: int
    published_at: int

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "interest": self.interest,
            "tenant": self.tenant,
            "name": self.name,
            "version": self.version,
            "change": self.change,
            "title": self.title,
            "summary": self.summary,
            "body": None if self.body is None else ("headrace.common.Content", self.body.to_avro(named)) if named else self.body.to_avro(named),
            "interests": list(self.interests),
            "digest": self.digest,
            "author": self.author,
            "submitted_at": self.submitted_at,
            "published_at": self.published_at,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> SkillChanged:
        return cls(
            interest=data["interest"],
            tenant=data["tenant"],
            name=data["name"],
            version=data["version"],
            change=SkillChange(data["change"]),
            title=data["title"],
            summary=data["summary"],
            body=None if (value_body := data["body"]) is None else Content.from_avro(value_body),
            interests=tuple(data["interests"]),
            digest=data["digest"],
            author=data["author"],
            submitted_at=data["submitted_at"],
            published_at=data["published_at"],
        )


class SkillStatus(StrEnum):
    """Whether a skill is in use."""

    LIVE = "live"
    REVOKED = "revoked"


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class SkillVersion:
    """One version in a skill's history.

    Attributes:
        version: 1 for the first version.
        status: Whether this version published the skill or revoked it.
        digest: SHA-256 of the version's body in hex.
        author: Agent that submitted it.
        submission_id: Submission that created it.
        published_at: When it was published. Milliseconds since the epoch, UTC.
    """

    FULL_NAME: ClassVar[str] = "headrace.skills.SkillVersion"

    version: int
    status: SkillStatus
    digest: str
    author: str = ''
    submission_id: str
    published_at: int

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "version": self.version,
            "status": self.status,
            "digest": self.digest,
            "author": self.author,
            "submission_id": self.submission_id,
            "published_at": self.published_at,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> SkillVersion:
        return cls(
            version=data["version"],
            status=SkillStatus(data["status"]),
            digest=data["digest"],
            author=data["author"],
            submission_id=data["submission_id"],
            published_at=data["published_at"],
        )


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class SkillPublished:
    """The newest version of a skill.

    Attributes:
        tenant: Tenant of the skill.
        name: Name of the skill.
        version: 1 for the first version.
        status: Whether it is in use.
        title: Title, one line.
        summary: What the skill is good for.
        body: The skill itself.
        interests: Domains whose agents receive it.
        previous_interests: Domains of the previous version, whose agents are notified as well.
        digest: SHA-256 of the body in hex.
        author: Agent that learned it.
        submission_id: Submission that led to this record: it created this version, or asked for the state that
            already existed.
        history: Latest versions, oldest first, this one included.
        positions: Consumed offsets of skills.submitted as of this version.
        submitted_at: When it was submitted. Milliseconds since the epoch, UTC.
        published_at: When it was published. Milliseconds since the epoch, UTC.
        forgotten_version: Highest version among the revoked skills of this tenant that this partition of the
            catalog had forgotten when this was written. New skills of the tenant begin above it, so that
            versions never restart.
    """

    FULL_NAME: ClassVar[str] = "headrace.skills.SkillPublished"

    tenant: str
    name: str
    version: int
    status: SkillStatus
    title: str = ''
    summary: str = ''
    body: Content | None = None
    interests: tuple[str, ...] = ()
    previous_interests: tuple[str, ...] = ()
    digest: str
    author: str = ''
    submission_id: str
    history: tuple[SkillVersion, ...] = ()
    positions: tuple[Position, ...] = ()
    submitted_at: int
    published_at: int
    forgotten_version: int = 0

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "tenant": self.tenant,
            "name": self.name,
            "version": self.version,
            "status": self.status,
            "title": self.title,
            "summary": self.summary,
            "body": None if self.body is None else ("headrace.common.Content", self.body.to_avro(named)) if named else self.body.to_avro(named),
            "interests": list(self.interests),
            "previous_interests": list(self.previous_interests),
            "digest": self.digest,
            "author": self.author,
            "submission_id": self.submission_id,
            "history": [item.to_avro(named) for item in self.history],
            "positions": [item.to_avro(named) for item in self.positions],
            "submitted_at": self.submitted_at,
            "published_at": self.published_at,
            "forgotten_version": self.forgotten_version,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> SkillPublished:
        return cls(
            tenant=data["tenant"],
            name=data["name"],
            version=data["version"],
            status=SkillStatus(data["status"]),
            title=data["title"],
            summary=data["summary"],
            body=None if (value_body := data["body"]) is None else Content.from_avro(value_body),
            interests=tuple(data["interests"]),
            previous_interests=tuple(data["previous_interests"]),
            digest=data["digest"],
            author=data["author"],
            submission_id=data["submission_id"],
            history=tuple([SkillVersion.from_avro(item) for item in data["history"]]),
            positions=tuple([Position.from_avro(item) for item in data["positions"]]),
            submitted_at=data["submitted_at"],
            published_at=data["published_at"],
            forgotten_version=data["forgotten_version"],
        )


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class SkillSubmitted:
    """A skill to publish, or to revoke.

    Attributes:
        submission_id: UUIDv7 of the submission.
        tenant: Tenant of the skill; it never leaves the tenant.
        name: Name of the skill: lower-case words joined by hyphens.
        action: Publish a new version, or revoke the skill.
        title: Title, one line.
        summary: What the skill is good for, for search.
        body: The skill itself, null when it is revoked.
        interests: Domains whose agents should receive it.
        digest: SHA-256 of the body in hex, as the author computed it; refused when it does not match.
        author: Agent that learned it.
        submitted_at: When it was submitted. Milliseconds since the epoch, UTC.
    """

    FULL_NAME: ClassVar[str] = "headrace.skills.SkillSubmitted"

    submission_id: str
    tenant: str
    name: str
    action: SkillAction = SkillAction.PUBLISH
    title: str = ''
    summary: str = ''
    body: Content | None = None
    interests: tuple[str, ...] = ()
    digest: str | None = None
    author: str = ''
    submitted_at: int

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "submission_id": self.submission_id,
            "tenant": self.tenant,
            "name": self.name,
            "action": self.action,
            "title": self.title,
            "summary": self.summary,
            "body": None if self.body is None else ("headrace.common.Content", self.body.to_avro(named)) if named else self.body.to_avro(named),
            "interests": list(self.interests),
            "digest": self.digest,
            "author": self.author,
            "submitted_at": self.submitted_at,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> SkillSubmitted:
        return cls(
            submission_id=data["submission_id"],
            tenant=data["tenant"],
            name=data["name"],
            action=SkillAction(data["action"]),
            title=data["title"],
            summary=data["summary"],
            body=None if (value_body := data["body"]) is None else Content.from_avro(value_body),
            interests=tuple(data["interests"]),
            digest=data["digest"],
            author=data["author"],
            submitted_at=data["submitted_at"],
        )
