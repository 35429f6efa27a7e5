"""The preferences of a tenant or of one of its users: who may change them, and what applies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Final, Literal

from headrace_contracts import floors
from headrace_contracts.events import Mode, Preferences, PrivacyLevel
from headrace_contracts.floors import Party, Target
from headrace_runtime.access import Caller, Scope
from pydantic import BaseModel, ConfigDict, Field

from headrace_intake.decide.options import Name, contradicting
from headrace_intake.decide.refusals import Refusal, bad_request
from headrace_intake.decide.views import rfc3339

Source = Literal["user", "tenant", "default"]

_LONGEST_USER: Final = 200
_LEVEL_OF_PRIVACY: Final = {privacy: level for level, privacy in floors.PRIVACY_OF_LEVEL.items()}


class PreferencesIn(BaseModel):
    """A complete preferences record; omitted fields are not requested. `user` is in the query, and may be repeated."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    user: str | None = None
    ai_mode: Mode | None = None
    privacy_level: PrivacyLevel | None = None
    preferred_provider: Name | None = None
    allowed_providers: Annotated[list[Name], Field(max_length=50)] = []


def key_of(tenant: str, user: str) -> str:
    """Key of the record; unambiguous, since tenant names hold no slash."""
    return f"{tenant}/{user}"


def parse_user(given: Sequence[str]) -> str:
    """The user, from all its occurrences in the query; "" for the tenant itself. Raises Refusal."""
    user = given[0] if given else ""
    if any(other != user for other in given):
        raise contradicting("`user` in the query", "another `user` in the query", "user")
    if len(user) > _LONGEST_USER or not (user.isprintable()):
        raise bad_request(f"user must have at most {_LONGEST_USER} printable characters.", "user")
    return user


def expect_same_user(user: str, in_body: str | None, in_headers: Sequence[str]) -> None:
    """Raises Refusal if the body or a header X-Headrace-User names another user than the query."""
    if in_body is not None and in_body != user:
        raise contradicting("`user` in the body", "`user` in the query, where it must be", "user")
    if any(other != user for other in in_headers):
        raise contradicting("the header X-Headrace-User", "`user` in the query, where it must be", "X-Headrace-User")


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


def party_of(caller: Caller) -> Party:
    """As whom a caller changes preferences: as the one with the most rights that its key has."""
    if caller.may(Scope.ADMIN):
        return Party.ADMIN_KEY
    return Party.PREFERENCES_KEY if caller.may(Scope.PREFERENCES) else Party.TASKS_KEY


def change_refused(by: Party, before: Preferences | None, after: Preferences) -> Refusal | None:
    """Why a record must not be replaced by another one; None if it may.

    Args:
        by: Who wants to.
        before: The record so far; None if there is none.
    """
    if not after.user:
        if floors.may_write(by, Target.TENANT_PREFERENCES):
            return None
        return _scope_missing("A key with the scope tasks cannot change the tenant's preferences")
    matters = floors.lowered(by, Target.USER_PREFERENCES, floors.demands_of_user(before), floors.demands_of_user(after))
    if not matters:
        return None
    return _scope_missing(
        f"A key with the scope tasks can only raise a user's preferences, and this lowers: {', '.join(matters)}"
    )


def effective(
    tenant: str, user: str, *, of_user: Preferences | None, of_tenant: Preferences | None
) -> tuple[Preferences, Source]:
    """The preferences that apply to the user (with user "", to the tenant), and whose record they come from: the
    tenant's, as far as the user's do not raise them."""
    base = of_tenant if of_tenant is not None else Preferences(tenant=tenant, user=user, updated_at=0)
    if not user or of_user is None:
        return base, "tenant" if of_tenant is not None else "default"
    demanded = floors.demands_of_tenant(of_tenant)
    both = floors.held({Party.TENANT: demanded, Party.USER: floors.demands_of_user(of_user)})
    named = dict.fromkeys((*base.allowed_providers, *((base.preferred_provider,) if base.preferred_provider else ())))
    narrowed = of_tenant is not None and bool(of_user.allowed_providers)
    applied = replace(
        of_user,
        ai_mode=both.mode if floors.is_below(demanded.mode, both.mode) else base.ai_mode,
        privacy_level=_LEVEL_OF_PRIVACY[both.privacy]
        if both.privacy is not None and floors.is_below(demanded.privacy, both.privacy)
        else base.privacy_level,
        preferred_provider=of_user.preferred_provider or base.preferred_provider,
        allowed_providers=tuple(name for name in named if name in (both.providers or ()))
        if narrowed
        else base.allowed_providers,
    )
    return applied, "user"


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


def _scope_missing(why: str) -> Refusal:
    return Refusal(403, "scope-missing", f"{why}; ask an admin for a key with the scope 'preferences'.")
