"""Events of the domain access.

Generated from schemas/ by `make generate`; edit the schemas instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from headrace_contracts.frozen import cheaply_made


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class AccessKey:
    """An API key, without its secret.

    Attributes:
        key_id: Public part of the key.
        tenant: Tenant of the key.
        name: What it is for.
        secret_hash: HMAC-SHA-256 of the secret under the installation's pepper, in hex.
        scopes: What it may do: tasks, skills, costs, preferences, admin.
        requests_per_minute: Rate limit; null for none.
        created_at: When it was created. Milliseconds since the epoch, UTC.
        revoked_at: When it stopped being valid. Milliseconds since the epoch, UTC.
    """

    FULL_NAME: ClassVar[str] = "headrace.access.AccessKey"

    key_id: str
    tenant: str
    name: str = ''
    secret_hash: str
    scopes: tuple[str, ...] = ()
    requests_per_minute: int | None = None
    created_at: int
    revoked_at: int | None = None

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "key_id": self.key_id,
            "tenant": self.tenant,
            "name": self.name,
            "secret_hash": self.secret_hash,
            "scopes": list(self.scopes),
            "requests_per_minute": self.requests_per_minute,
            "created_at": self.created_at,
            "revoked_at": self.revoked_at,
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> AccessKey:
        return cls(
            key_id=data["key_id"],
            tenant=data["tenant"],
            name=data["name"],
            secret_hash=data["secret_hash"],
            scopes=tuple(data["scopes"]),
            requests_per_minute=data["requests_per_minute"],
            created_at=data["created_at"],
            revoked_at=data["revoked_at"],
        )


@cheaply_made
@dataclass(frozen=True, slots=True, kw_only=True)
class RequestsCounted:
    """Requests that one process of a service with an API has let through since its last such record.

    Attributes:
        service: The service whose API it was, such as intake: rates hold for each of them by itself.
        process: The process, by an id that it chose at its start.
        sequence: 1 for the first record of the process, and one more for each following one.
        counted_at: Until when these requests were counted. Milliseconds since the epoch, UTC.
        requests: How many, by the id of their API key.
    """

    FULL_NAME: ClassVar[str] = "headrace.access.RequestsCounted"

    service: str
    process: str
    sequence: int
    counted_at: int
    requests: Mapping[str, int]

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return {
            "service": self.service,
            "process": self.process,
            "sequence": self.sequence,
            "counted_at": self.counted_at,
            "requests": dict(self.requests),
        }

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> RequestsCounted:
        return cls(
            service=data["service"],
            process=data["process"],
            sequence=data["sequence"],
            counted_at=data["counted_at"],
            requests=data["requests"],
        )
