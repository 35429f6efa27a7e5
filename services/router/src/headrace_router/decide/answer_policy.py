"""What of a routing policy an answer depends on: answers outlive changes of the rest."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from headrace_router.decide.policy import Policy

_WITHOUT_EFFECT: Final = frozenset({"deadlines", "retry", "cache", "roles"})
"""Parts of a policy that make no answer another one; of the roles only the task's own does. What is not named here
counts, so that a part that is added later does."""


@dataclass(frozen=True, slots=True)
class _ByVersion:
    version: str
    policy: Policy = field(compare=False)


def answer_version(policy: Policy, role: str | None) -> str:
    """A digest of all in a policy that may change an answer to a task of this role.

    Other roles, deadlines, retries and the limits of the caches do not: a policy that changes these alone leaves
    answers valid.
    """
    return _digest(_ByVersion(policy.version, policy), role)


@lru_cache(maxsize=4096)
def _digest(versioned: _ByVersion, role: str | None) -> str:
    policy = versioned.policy
    own = None if role is None else policy.roles.get(role)
    parts = policy.model_dump(exclude=set(_WITHOUT_EFFECT))
    # A time-out ends an attempt and changes no answer.
    parts["attempts"].pop("timeout", None)
    parts["role"] = None if own is None else own.model_dump()
    return hashlib.sha256(json.dumps(_plain(parts), sort_keys=True).encode()).hexdigest()[:16]


def _plain(value: object) -> object:
    """As JSON takes it, and the same in every process: sets have no order of their own."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value
