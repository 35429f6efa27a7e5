"""API keys: creating, storing and verifying them, and the permissions of their holders.

A key has the form `hr_<key id>_<secret>`. Its secret is shown once, at creation; only a keyed hash is stored, which is
useless without the pepper that only the services have.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

KEY_RANDOM_BYTES: Final = 40
"""Number of random bytes for `make_key`: 10 for the id, 30 (240 bits) for the secret."""

_ID_BYTES: Final = 10
_KEY: Final = re.compile(r"hr_([a-z2-7]{16})_([a-z2-7]{48})")


class Scope(StrEnum):
    """Permissions of a key."""

    ADMIN = "admin"
    """All permissions, and the management of all tenants' keys."""
    TASKS = "tasks"
    SKILLS = "skills"
    COSTS = "costs"
    PREFERENCES = "preferences"
    """To change the tenant's preferences, and to lower those of its users."""


class StoredKey(Protocol):
    """What services store of a key; the event `AccessKey` is one."""

    @property
    def key_id(self) -> str: ...
    @property
    def tenant(self) -> str: ...
    @property
    def secret_hash(self) -> str: ...
    @property
    def scopes(self) -> Sequence[str]: ...
    @property
    def requests_per_minute(self) -> int | None: ...
    @property
    def revoked_at(self) -> int | None: ...


class KeyTable(Protocol):
    """All keys by id, in memory."""

    def get(self, key_id: str, /) -> StoredKey | None: ...


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key in plain text: given to its holder once, never stored or logged."""

    key_id: str
    secret: str

    def __str__(self) -> str:
        return f"hr_{self.key_id}_{self.secret}"

    def __repr__(self) -> str:
        return f"ApiKey(key_id={self.key_id!r})"


@dataclass(frozen=True, slots=True)
class Caller:
    """The authenticated caller."""

    tenant: str
    key_id: str
    scopes: frozenset[str]
    requests_per_minute: int | None = None

    def may(self, scope: str) -> bool:
        """Whether the key has `scope`, or is an admin's."""
        return scope in self.scopes or Scope.ADMIN in self.scopes


class NotRecognised(Exception):
    """The key is malformed, unknown, wrong or revoked (deliberately not saying which); the caller must use another."""


def make_key(random_bytes: bytes) -> ApiKey:
    """Make a new key from KEY_RANDOM_BYTES unpredictable bytes.

    Raises ValueError for another number of bytes.
    """
    if len(random_bytes) != KEY_RANDOM_BYTES:
        raise ValueError(f"a key takes {KEY_RANDOM_BYTES} random bytes, got {len(random_bytes)}")
    return ApiKey(_base32(random_bytes[:_ID_BYTES]), _base32(random_bytes[_ID_BYTES:]))


def parse_key(text: str) -> ApiKey | None:
    """Parse a key; None if `text` is not one."""
    match = _KEY.fullmatch(text.strip())
    return ApiKey(match[1], match[2]) if match else None


def hash_secret(pepper: str, secret: str) -> str:
    """The stored form of a secret: HMAC-SHA256 under the pepper, in hexadecimal."""
    return hmac.new(pepper.encode(), secret.encode(), hashlib.sha256).hexdigest()


def recognise(text: str, keys: KeyTable, pepper: str, now_ms: int) -> Caller:
    """Authenticate the holder of the key in `text`.

    Takes as long for an unknown id as for a wrong secret. Raises NotRecognised.
    """
    key = parse_key(text)
    if key is None:
        raise NotRecognised
    stored = keys.get(key.key_id)
    presented = hash_secret(pepper, key.secret)
    matches = hmac.compare_digest(presented, stored.secret_hash if stored is not None else "0" * len(presented))
    if stored is None or not matches or is_revoked(stored, now_ms):
        raise NotRecognised
    return Caller(stored.tenant, stored.key_id, frozenset(stored.scopes), stored.requests_per_minute)


def is_revoked(key: StoredKey, now_ms: int) -> bool:
    """Whether the key is revoked at `now_ms`."""
    return key.revoked_at is not None and key.revoked_at <= now_ms


def _base32(data: bytes) -> str:
    return base64.b32encode(data).decode("ascii").lower()
