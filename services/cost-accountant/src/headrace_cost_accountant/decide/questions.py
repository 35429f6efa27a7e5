"""Which cost queries are valid."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from headrace_contracts.limits import is_tenant

ALL_TENANTS: Final = "*"
GROUPS: Final = ("tenant", "day", "hour", "provider", "model", "role", "kind", "user", "session", "batch")
MOST_GROUPS: Final = 3
DAY_MS: Final = 86_400_000

_KNOWN: Final = frozenset({"since", "until", "group_by", "tenant"})
_IN_BALANCES: Final = frozenset({"tenant", "day", "provider", "model"})
_LATEST_MS: Final = 4_102_444_800_000  # 2100-01-01


class CostQueryInvalid(Exception):
    """The query is invalid; `parameter` names the one to correct and the message says how."""

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(message)
        self.parameter = parameter


class TenantForbidden(Exception):
    """Another tenant's costs are visible only to admins."""


@dataclass(frozen=True, slots=True)
class CostQuery:
    """A report on a period.

    Attributes:
        tenant: Whose costs; None for all tenants together.
        since, until: Milliseconds since the epoch; `since` is inclusive, `until` exclusive; None does not restrict.
        group_by: Names from GROUPS.
    """

    tenant: str | None
    since: int | None = None
    until: int | None = None
    group_by: tuple[str, ...] = ()

    @property
    def balances_suffice(self) -> bool:
        """Whether the daily balances suffice, so that the entries need not be read."""
        days = all(bound is None or bound % DAY_MS == 0 for bound in (self.since, self.until))
        return days and _IN_BALANCES.issuperset(self.group_by)


def said_once(query: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The parameters of a query string by name; `group_by` may be there several times, for several names.

    Raises CostQueryInvalid for any other parameter that is there twice: one of the two would be lost.
    """
    said: dict[str, str] = {}
    for name, value in query:
        if name in said and name != "group_by":
            raise CostQueryInvalid(name, f"{name} is there twice: send it once")
        said[name] = f"{said[name]},{value}" if name in said else value
    return said


def ask(query: Mapping[str, str], tenant: str, *, is_admin: bool) -> CostQuery:
    """Parse a tenant's query string.

    Raises CostQueryInvalid, TenantForbidden.
    """
    unknown = sorted(query.keys() - _KNOWN)
    if unknown:
        raise CostQueryInvalid(unknown[0], f"there is no parameter {unknown[0]}; there are {', '.join(sorted(_KNOWN))}")
    since, until = _time("since", query.get("since")), _time("until", query.get("until"))
    if since is not None and until is not None and since >= until:
        raise CostQueryInvalid("until", "until must be later than since")
    return CostQuery(whose(query.get("tenant"), tenant, is_admin=is_admin), since, until, _groups(query))


def whose(asked: str | None, tenant: str, *, is_admin: bool) -> str | None:
    """The tenant a caller may see: its own, or as an admin any, or all (`*`, None).

    Raises TenantForbidden, CostQueryInvalid.
    """
    if not asked or asked == tenant:
        return tenant
    if not is_admin:
        raise TenantForbidden
    if asked == ALL_TENANTS:
        return None
    if not is_tenant(asked):
        raise CostQueryInvalid("tenant", "tenant is not a name that a tenant can have")
    return asked


def _groups(query: Mapping[str, str]) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in query.get("group_by", "").split(",") if name.strip()))
    wrong = [name for name in names if name not in GROUPS]
    if wrong or len(names) > MOST_GROUPS:
        raise CostQueryInvalid("group_by", f"group_by is up to {MOST_GROUPS} of {', '.join(GROUPS)}")
    return names


def _time(name: str, text: str | None) -> int | None:
    if not text:
        return None
    if text.isascii() and text.isdigit():
        return min(int(text[:18]), _LATEST_MS)
    try:
        # An unescaped "+" in the query arrives as a space.
        moment = datetime.fromisoformat(text.replace(" ", "+"))
    except ValueError:
        raise CostQueryInvalid(
            name, f"{name} is a time as in 2027-01-31T12:00:00Z, a date, or milliseconds since the epoch"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    try:
        return max(0, min(round(moment.timestamp() * 1000), _LATEST_MS))
    except OverflowError:
        raise CostQueryInvalid(name, f"{name} is out of range") from None
