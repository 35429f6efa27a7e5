"""API keys: what an admin may request, and the records that result."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Final, Literal

from headrace_contracts.events import AccessKey
from headrace_contracts.limits import LONGEST_NAME, OPTIONAL_NAME_PATTERN, TENANT_PATTERN
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from headrace_intake.decide.views import rfc3339

ScopeName = Literal["tasks", "skills", "costs", "preferences", "admin"]

_BOOTSTRAP_NAME: Final = "bootstrap"
_EVERYDAY: tuple[ScopeName, ...] = ("tasks", "skills", "costs")


class KeyRequest(BaseModel):
    """The body of POST /v1/keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tenant: Annotated[str, StringConstraints(pattern=TENANT_PATTERN)]
    name: Annotated[str, StringConstraints(max_length=LONGEST_NAME, pattern=OPTIONAL_NAME_PATTERN)] = ""
    scopes: Annotated[list[ScopeName], Field(min_length=1)] = list(_EVERYDAY)
    requests_per_minute: Annotated[int, Field(ge=1, le=1_000_000)] | None = None


def new_key(request: KeyRequest, *, key_id: str, secret_hash: str, now_ms: int) -> AccessKey:
    """The record of a new key."""
    return AccessKey(
        key_id=key_id,
        tenant=request.tenant,
        name=request.name,
        secret_hash=secret_hash,
        scopes=tuple(dict.fromkeys(request.scopes)),
        requests_per_minute=request.requests_per_minute,
        created_at=now_ms,
    )


def bootstrap_key(
    stored: AccessKey | None, *, key_id: str, secret_hash: str, tenant: str, now_ms: int
) -> AccessKey | None:
    """The record to publish for the key from the settings; None when it is stored already.

    A revoked key stays revoked. One with another hash was stored under another pepper and is replaced: otherwise no
    caller could authenticate.
    """
    if stored is not None and (stored.secret_hash == secret_hash or stored.revoked_at is not None):
        return None
    return AccessKey(
        key_id=key_id,
        tenant=stored.tenant if stored is not None else tenant,
        name=_BOOTSTRAP_NAME,
        secret_hash=secret_hash,
        scopes=("admin", *_EVERYDAY),
        created_at=stored.created_at if stored is not None else now_ms,
    )


def past_retention(keys: Mapping[str, AccessKey], now_ms: int, kept_ms: int, never: Collection[str]) -> list[str]:
    """Ids of the keys that were revoked longer ago than `kept_ms`, and may be forgotten.

    A forgotten key is an unknown one, and as invalid. But the key from the settings is stored whenever it is unknown,
    so it has to be remembered that it was revoked: by intakes with these settings (`never`), and with other ones.
    """
    return [
        key_id
        for key_id, key in keys.items()
        if key.revoked_at is not None
        and key.revoked_at <= now_ms - kept_ms
        and key.name != _BOOTSTRAP_NAME
        and key_id not in never
    ]


def document(key: AccessKey) -> dict[str, Any]:
    """A key as admins see it, never with its hash."""
    return {
        "id": key.key_id,
        "tenant": key.tenant,
        "name": key.name,
        "scopes": list(key.scopes),
        "requests_per_minute": key.requests_per_minute,
        "created_at": rfc3339(key.created_at),
        "revoked_at": rfc3339(key.revoked_at),
    }
