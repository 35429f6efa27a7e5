"""Events of the domain settings.

Generated from schemas/ by `make generate`; edit the schemas instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from headrace_contracts.events.common import Mode


class PrivacyLevel(StrEnum):
    """A user's choice: high keeps everything on own nodes, standard allows the named providers, low allows all."""

    HIGH = "high"
    STANDARD = "standard"
    LOW = "low"


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
