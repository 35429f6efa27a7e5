"""The preferences of a tenant or of one of its users."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from headrace_contracts.events import Mode, Preferences, PrivacyLevel
from pydantic import BaseModel, ConfigDict, Field

from headrace_intake.decide.options import Name
from headrace_intake.decide.refusals import bad_request
from headrace_intake.decide.views import rfc3339

Source = Literal["user", "tenant", "default"]

_LONGEST_USER: Final = 200


class PreferencesIn(BaseModel):
    """A complete preferences record; omitted fields are not requested."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ai_mode: Mode | None = None
    privacy_level: PrivacyLevel | None = None
    preferred_provider: Name | None = None
    allowed_providers: Annotated[list[Name], Field(max_length=50)] = []


def key_of(tenant: str, user: str) -> str:
    """Key of the record; unambiguous, since tenant names hold no slash."""
    return f"{tenant}/{user}"


def parse_user(text: str | None) -> str:
    """The user in a query, "" for the tenant itself. Raises Refusal."""
    user = text or ""
    if len(user) > _LONGEST_USER or not (user.isprintable()):
        raise bad_request(f"user must have at most {_LONGEST_USER} printable characters.", "user")
    return user


def record(requested: PreferencesIn, *, tenant: str, user: str, key_id: str, now_ms: int) -> Preferences:
    """The preferences record as an event."""
    return Preferences(
        tenant=tenant,
        user=user,
        ai_mode=requested.ai_mode,
        privacy_level=requested.privacy_level,
        preferred_provider=requested.preferred_provider,
        allowed_providers=tuple(dict.fromkeys(requested.allowed_providers)),
        updated_by=key_id,
        updated_at=now_ms,
    )


def effective(
    tenant: str, user: str, *, of_user: Preferences | None, of_tenant: Preferences | None
) -> tuple[Preferences, Source]:
    """The preferences that apply to the user (with user "", to the tenant), and whose record they come from."""
    if user and of_user is not None:
        return of_user, "user"
    if of_tenant is not None:
        return of_tenant, "tenant"
    return Preferences(tenant=tenant, user=user, updated_at=0), "default"


def document(preferences: Preferences, user: str, source: Source) -> dict[str, Any]:
    """Preferences as callers see them."""
    return {
        "tenant": preferences.tenant,
        "user": user,
        "source": source,
        "ai_mode": preferences.ai_mode,
        "privacy_level": preferences.privacy_level,
        "preferred_provider": preferences.preferred_provider,
        "allowed_providers": list(preferences.allowed_providers),
        "updated_by": preferences.updated_by or None,
        "updated_at": rfc3339(preferences.updated_at) if source != "default" else None,
    }
