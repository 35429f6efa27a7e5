"""What a submission must satisfy to become a skill."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from headrace_contracts.events import Content, SkillAction, SkillSubmitted

_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_INTEREST = re.compile(r"[a-z0-9]+(?:[-_.][a-z0-9]+)*")

RESERVED_NAMES = frozenset({"feed"})
"""Names that would hide a path of the HTTP API."""


@dataclass(frozen=True, slots=True)
class SkillLimits:
    """Limits of a skill, and of a tenant's skills together; lengths in characters, the body in bytes.

    Attributes:
        revoked_ms: How long a revoked skill stays in the catalog, in milliseconds.
    """

    name: int = 100
    title: int = 200
    summary: int = 2000
    author: int = 200
    interest: int = 64
    interests: int = 20
    body_bytes: int = 262_144
    skills_per_tenant: int = 20_000
    bytes_per_tenant: int = 67_108_864
    revoked_ms: int = 30 * 86_400_000


@dataclass(frozen=True, slots=True)
class Flaw:
    """Why a submission is refused: the field to correct and what is wrong with it, without the field's content."""

    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


def body_digest(body: Content) -> str:
    """SHA-256 of a body as stored in its record, in hex."""
    return hashlib.sha256(body.data).hexdigest()


def flaw_in(submission: SkillSubmitted, limits: SkillLimits) -> Flaw | None:
    """The first flaw of a submission, or None."""
    return _flaw_in_identity(submission, limits) or (
        None if submission.action is SkillAction.REVOKE else _flaw_in_content(submission, limits)
    )


def flaw_in_interest(interest: str, limits: SkillLimits) -> Flaw | None:
    """The flaw of a domain's name, or None."""
    if len(interest) > limits.interest:
        return Flaw("interests", f"an interest has at most {limits.interest} characters")
    if not _INTEREST.fullmatch(interest):
        return Flaw("interests", "an interest is lower-case letters and digits, in parts joined by '-', '_' or '.'")
    return None


def _flaw_in_identity(submission: SkillSubmitted, limits: SkillLimits) -> Flaw | None:
    if not submission.submission_id:
        return Flaw("submission_id", "must not be empty; use a new UUIDv7 for each submission")
    if not submission.tenant:
        return Flaw("tenant", "must not be empty")
    if len(submission.name) > limits.name:
        return Flaw("name", f"has at most {limits.name} characters")
    if not _NAME.fullmatch(submission.name):
        return Flaw("name", "must be lower-case words or numbers joined by single hyphens, as in retry-with-backoff")
    if submission.name in RESERVED_NAMES:
        return Flaw("name", f"{submission.name!r} is taken by the API itself; choose another")
    return None


def _flaw_in_content(submission: SkillSubmitted, limits: SkillLimits) -> Flaw | None:
    lengths = (
        ("title", submission.title, limits.title),
        ("summary", submission.summary, limits.summary),
        ("author", submission.author, limits.author),
    )
    for field, text, most in lengths:
        if len(text) > most:
            return Flaw(field, f"has at most {most} characters, not {len(text)}")
    if "\n" in submission.title or "\r" in submission.title:
        return Flaw("title", "is one line")
    return _flaw_in_body(submission, limits) or _flaw_in_interests(submission, limits)


def _flaw_in_body(submission: SkillSubmitted, limits: SkillLimits) -> Flaw | None:
    body = submission.body
    if body is None or not body.data.strip():
        return Flaw("body", "must not be empty; to take a skill out of use, revoke it")
    if len(body.data) > limits.body_bytes:
        return Flaw("body", f"has at most {limits.body_bytes} bytes, not {len(body.data)}")
    if submission.digest is not None and submission.digest.lower() != body_digest(body):
        return Flaw("digest", "is not the SHA-256 of the body in hex: the body was changed or cut on its way")
    return None


def _flaw_in_interests(submission: SkillSubmitted, limits: SkillLimits) -> Flaw | None:
    if len(submission.interests) > limits.interests:
        return Flaw("interests", f"at most {limits.interests}, not {len(submission.interests)}")
    for interest in submission.interests:
        flaw = flaw_in_interest(interest, limits)
        if flaw is not None:
            return flaw
    return None
