"""Events of the domain settings.

Generated from schemas/ by `make generate`; edit the schemas instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from headrace_contracts.events.common import Mode
from headrace_contracts.frozen import cheaply_made


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyPublished:
    """One revision of the routing policy of the installation, or of what one tenant narrows of it.

    Attributes:
        scope: installation, or tenant/ and the tenant's name.
        revision: 1 for the first of its scope. Of several with one number the first in the topic counts: the
            others were published at the same time, and their publishers are told.
        version: The first 12 hexadecimal digits of the SHA-256 of all values. Empty where the text is.
        text: The policy as YAML. Empty: what this scope has published no longer counts, and the routers' own
            file does.
        reason: Why, in the operator's words.
        restores: The earlier revision whose text this one has, if it is a rollback.
        published_by: Who published it: user@host.
        published_at: When it was published. Milliseconds since the epoch, UTC.
    """

    FULL_NAME: ClassVar[str] = "headrace.settings.PolicyPublished"

    scope: str
    revision: int
    version: str
    text: str
    reason: str = ''
    restores: int | None = None
    published_by: str = ''
    published_at: int

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "scope": self.scope,
            "revision": self.revision,
            "version": self.version,
            "text": self.text,
            "reason": self.reason,
            "restores": self.restores,
            "published_by": self.published_by,
            "published_at": self.published_at,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> PolicyPublished:
        return cls(
            scope=data["scope"],
            revision=data["revision"],
            version=data["version"],
            text=data["text"],
            reason=data["reason"],
            restores=data["restores"],
            published_by=data["published_by"],
            published_at=data["published_at"],
        )


class PrivacyLevel(StrEnum):
    """A user's choice: high keeps everything on own nodes, standard allows the named providers, low allows all."""

    HIGH = "high"
    STANDARD = "standard"
    LOW = "low"


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class Preferences:
    """Preferences of a tenant, or of one of its users.

    Attributes:
        tenant: The tenant.
        user: The user; empty for the tenant's own defaults.
        ai_mode: Where to run; a task and a user may only demand more: local more than hybrid, hybrid more than
            cloud.
        privacy_level: How far content may travel at most: a task, a role and a user may only demand more. Null:
            no demand.
        preferred_provider: Provider to try first.
        allowed_providers: Providers that internal content may go to. A user's list can only leave out some of
            the tenant's; an empty one leaves out none.
        updated_by: Key or user that changed it.
        updated_at: When it was changed. Milliseconds since the epoch, UTC.
    """

    FULL_NAME: ClassVar[str] = "headrace.settings.Preferences"

    tenant: str
    user: str = ''
    ai_mode: Mode | None = None
    privacy_level: PrivacyLevel | None = None
    preferred_provider: str | None = None
    allowed_providers: tuple[str, ...] = ()
    updated_by: str = ''
    updated_at: int

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "tenant": self.tenant,
            "user": self.user,
            "ai_mode": self.ai_mode,
            "privacy_level": self.privacy_level,
            "preferred_provider": self.preferred_provider,
            "allowed_providers": list(self.allowed_providers),
            "updated_by": self.updated_by,
            "updated_at": self.updated_at,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> Preferences:
        return cls(
            tenant=data["tenant"],
            user=data["user"],
            ai_mode=None if (value_ai_mode := data["ai_mode"]) is None else Mode(value_ai_mode),
            privacy_level=None if (value_privacy_level := data["privacy_level"]) is None else PrivacyLevel(value_privacy_level),
            preferred_provider=data["preferred_provider"],
            allowed_providers=tuple(data["allowed_providers"]),
            updated_by=data["updated_by"],
            updated_at=data["updated_at"],
        )


class SwitchKind(StrEnum):
    """What a kill switch stops: calls of a provider, calls of a model at any provider, a feature of the router, all tasks of a tenant."""

    PROVIDER = "provider"
    MODEL = "model"
    FEATURE = "feature"
    TENANT = "tenant"
    UNKNOWN = "unknown"


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchedOff:
    """A kill switch that is off: an operator's decision that something is not to be used. A tombstone switches it on again.

    Attributes:
        kind: What kind of thing is switched off.
        name: Its name: of a provider, a model (as providers name it, or provider/model for one of them), a
            feature, a tenant. The record's key is the kind, a slash, and this.
        reason: Why, in the operator's words. Callers see it.
        until: When it is on again by itself. Null: when an operator says so. Milliseconds since the epoch, UTC.
        switched_by: Who decided it: user@host.
        switched_at: When it was decided. Milliseconds since the epoch, UTC.
    """

    FULL_NAME: ClassVar[str] = "headrace.settings.SwitchedOff"

    kind: SwitchKind
    name: str
    reason: str = ''
    until: int | None = None
    switched_by: str = ''
    switched_at: int

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "name": self.name,
            "reason": self.reason,
            "until": self.until,
            "switched_by": self.switched_by,
            "switched_at": self.switched_at,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> SwitchedOff:
        return cls(
            kind=SwitchKind(data["kind"]),
            name=data["name"],
            reason=data["reason"],
            until=data["until"],
            switched_by=data["switched_by"],
            switched_at=data["switched_at"],
        )
