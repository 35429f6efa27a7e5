"""What was spent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from headrace.errors import NotUnderstood
from headrace.results import NANODOLLARS, Reader, Usage
from headrace.transport import Transport


@dataclass(frozen=True, slots=True, kw_only=True)
class CostGroup:
    """What one group consumed; `key` holds its values, such as {"provider": "groq", "model": "…"}."""

    key: Mapping[str, str]
    executions: int
    usage: Usage
    cost_nanodollars: int

    @property
    def cost_usd(self) -> Decimal:
        """The cost in dollars, exact."""
        return Decimal(self.cost_nanodollars) / NANODOLLARS


@dataclass(frozen=True, slots=True, kw_only=True)
class CostReport:
    """What a tenant spent in a period: the whole, and by group."""

    tenant: str
    total: CostGroup
    groups: tuple[CostGroup, ...]


class Costs:
    """The cost accountant's API."""

    def __init__(self, transport: Transport, url: Callable[[], str]) -> None:
        self._transport = transport
        self._root = url

    async def __call__(
        self, *, by: str = "model", since: datetime | None = None, until: datetime | None = None,
        tenant: str | None = None,
    ) -> CostReport:  # fmt: skip
        """What was spent.

        Args:
            by: What to group by.
            since, until: Period: `since` is included, `until` is not.
            tenant: Another tenant; needs a key with the scope admin.
        """
        params = {"group_by": by}
        for name, moment in (("since", since), ("until", until)):
            if moment is not None:
                params[name] = moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
        if tenant is not None:
            params["tenant"] = tenant
        reply = await self._transport.call("GET", self._root().rstrip("/") + "/v1/costs", params=params)
        return cost_report_of(reply.document)


def cost_report_of(document: Any) -> CostReport:
    """A report from JSON. Raises NotUnderstood."""
    read = Reader(document, "a cost report")
    total = read.object("total")
    if total is None:
        raise NotUnderstood("a cost report: total is missing")
    return CostReport(
        tenant=read.optional_text("tenant") or "",
        total=_group_of(total),
        groups=tuple(_group_of(group) for group in read.objects("groups")),
    )


def _group_of(read: Reader) -> CostGroup:
    return CostGroup(
        key=read.text_map("key"),
        executions=read.integer("executions"),
        usage=Usage(
            input_tokens=read.integer("input_tokens"),
            output_tokens=read.integer("output_tokens"),
            cached_input_tokens=read.integer("cached_input_tokens"),
            searches=read.integer("searches"),
        ),
        cost_nanodollars=read.integer("cost_nanodollars"),
    )
