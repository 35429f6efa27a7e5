"""The published revisions of policies, and which of them count.

All readers agree, whatever they have read before: the topic has one partition, and of several records with one revision
the first in it counts. Each record has a key of its own, so that compaction removes none of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from headrace_contracts.events import PolicyPublished
from headrace_contracts.limits import is_tenant

INSTALLATION: Final = "installation"
_TENANT: Final = "tenant/"
KEPT: Final = 50
"""Revisions of a scope that stay in the topic, for rollbacks."""


def scope_of(tenant: str | None) -> str:
    """The scope of the installation, or of one tenant."""
    return INSTALLATION if tenant is None else _TENANT + tenant


def tenant_of(scope: str) -> str | None:
    """The tenant of a scope; None for the installation's, and for one that is none."""
    name = scope.removeprefix(_TENANT)
    return name if scope.startswith(_TENANT) and is_tenant(name) else None


def revision_key(published: PolicyPublished) -> str:
    """Key of its record."""
    return f"{published.scope}/{published.revision}/{published.version or 'none'}"


class Revisions:
    """All revisions in the topic `policies`, folded in its order."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[int, dict[str, PolicyPublished]]] = {}
        self._where: dict[str, tuple[str, int]] = {}

    def apply(self, key: str, published: PolicyPublished | None) -> str | None:
        """Take a record of the topic; returns the scope that it belongs to, None if it changes nothing."""
        if published is None:
            if (where := self._where.pop(key, None)) is None:
                return None
            scope, revision = where
            self._rows[scope][revision].pop(key, None)
            if not self._rows[scope][revision]:
                del self._rows[scope][revision]
            return scope
        scope = published.scope
        if (scope != INSTALLATION and tenant_of(scope) is None) or published.revision < 1:
            return None
        if key != revision_key(published):
            # Its key would let it take the place of another record.
            return None
        self._where[key] = scope, published.revision
        self._rows.setdefault(scope, {}).setdefault(published.revision, {}).setdefault(key, published)
        return scope

    @property
    def scopes(self) -> Iterable[str]:
        """Those that have revisions, sorted."""
        return sorted(scope for scope, rows in self._rows.items() if rows)

    def newest_first(self, scope: str) -> Sequence[PolicyPublished]:
        """The revisions of a scope that count, each number once."""
        rows = self._rows.get(scope, {})
        return [next(iter(rows[number].values())) for number in sorted(rows, reverse=True)]

    def newest(self, scope: str) -> PolicyPublished | None:
        """The newest revision of a scope."""
        return next(iter(self.newest_first(scope)), None)

    def outdated(self, scope: str) -> Sequence[str]:
        """Keys of records that need not be kept: of revisions long past, and of those that never counted."""
        rows = self._rows.get(scope, {})
        kept = sorted(rows, reverse=True)[:KEPT]
        return [key for number, row in rows.items() if number not in kept for key in row]
