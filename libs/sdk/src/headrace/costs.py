"""Cost reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from headrace.errors import NotUnderstood
from headrace.parsing import Reader, usage_of
from headrace.results import NANODOLLARS, Usage
from headrace.transport import Transport


@dataclass(frozen=True, slots=True, kw_only=True)
class CostSums:
    """Sums over some executions.

    Attributes:
        cost_nanodollars: Cost in nano-dollars.
        internal_value_nanodollars: Notional value of those on our own nodes, which is not billed.
        unpriced_executions: Number of those whose model is not in the price book.
        possibly_billed_executions: Number of those, beside `executions`, whose worker died in the middle of the call.
        possibly_billed_nanodollars: What their providers may have billed at most; no part of the cost.
    """

    executions: int = 0
    usage: Usage = field(default_factory=Usage)
    cost_nanodollars: int = 0
    internal_value_nanodollars: int = 0
    unpriced_executions: int = 0
    possibly_billed_executions: int = 0
    possibly_billed_nanodollars: int = 0

    @property
    def cost_usd(self) -> Decimal:
        """The cost in dollars, exact."""
        return Decimal(self.cost_nanodollars) / NANODOLLARS


@dataclass(frozen=True, slots=True, kw_only=True)
class CostGroup:
    """One group of a report; `key` holds its values, such as {"provider": "groq"}."""

    key: Mapping[str, str] = field(default_factory=dict)
    simulated: bool = False
    sums: CostSums = field(default_factory=CostSums)


@dataclass(frozen=True, slots=True, kw_only=True)
class CostReport:
    """Costs of a period.

    Attributes:
        tenant: The tenant; None for all together.
        total: The total, including simulated answers at the price of the real models.
        simulated: The part of it due to simulated answers.
        groups: The sums by group.
    """

    tenant: str | None
    total: CostSums
    simulated: CostSums
    groups: tuple[CostGroup, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendWindow:
    """Cost of the current minute, hour or day so far: a live view, less exact than the ledger."""

    seconds: int
    start: datetime | None
    sums: CostSums


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedDemand:
    """What is expected of a model, or of a role.

    Attributes:
        key: Whose it is: provider and model, or role.
        history_hours: From how many hours this follows; 0 if nothing is known.
        busy_calls: Calls that run at once on average, for each hour.
    """

    key: Mapping[str, str]
    history_hours: int
    busy_calls: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DemandOutlook:
    """The demand that is expected, hour by hour from `start` on, that with most first."""

    start: datetime | None
    hours: int
    expected: tuple[ExpectedDemand, ...]


class Costs:
    """The cost accountant's API: call it for a report."""

    def __init__(self, transport: Transport, url: Callable[[], str]) -> None:
        self._transport = transport
        self._root = url

    async def __call__(
        self, *, by: str | Sequence[str] = (), since: datetime | None = None, until: datetime | None = None,
        tenant: str | None = None,
    ) -> CostReport:  # fmt: skip
        """A report.

        Args:
            by: What to group by: up to three of tenant, day, hour, provider, model, role, kind, user, session, batch.
            since, until: Period: `since` is included, `until` is not.
            tenant: Another tenant, or * for all together; needs a key with the scope admin.
        """
        params = [("group_by", by if isinstance(by, str) else ",".join(by))] if by else []
        for name, moment in (("since", since), ("until", until)):
            if moment is not None:
                params.append((name, moment.astimezone(UTC).isoformat().replace("+00:00", "Z")))
        if tenant is not None:
            params.append(("tenant", tenant))
        reply = await self._transport.call("GET", self._url("/v1/costs"), params=params)
        return cost_report_of(reply.document)

    async def live(self, tenant: str | None = None) -> tuple[SpendWindow, ...]:
        """The cost of the current minute, hour and day so far."""
        params = {"tenant": tenant} if tenant is not None else None
        document = (await self._transport.call("GET", self._url("/v1/costs/live"), params=params)).document
        return tuple(
            SpendWindow(seconds=read.integer("seconds"), start=read.time("start"), sums=_sums_of(read))
            for read in Reader(document, "live costs").objects("windows")
        )

    async def forecast(self, *, by: str = "model", hours: int = 24) -> DemandOutlook:
        """What demand of models is expected, of all tenants together; needs a key with the scope admin.

        Args:
            by: model or role.
            hours: From the present hour on, 1 to 168.
        """
        params = {"by": by, "hours": str(hours)}
        document = (await self._transport.call("GET", self._url("/v1/costs/forecast"), params=params)).document
        read = Reader(document, "a forecast")
        return DemandOutlook(
            start=read.time("from"),
            hours=read.integer("hours"),
            expected=tuple(_expected(one) for one in read.objects("forecasts")),
        )

    def _url(self, path: str) -> str:
        return self._root().rstrip("/") + path


def cost_report_of(document: Any) -> CostReport:
    """A report from JSON. Raises NotUnderstood."""
    read = Reader(document, "a cost report")
    total, simulated = read.object("total"), read.object("simulated")
    if total is None:
        raise NotUnderstood("a cost report: total is missing")
    return CostReport(
        tenant=read.optional_text("tenant"),
        total=_sums_of(total),
        simulated=CostSums() if simulated is None else _sums_of(simulated),
        groups=tuple(
            CostGroup(key=group.text_map("key"), simulated=group.flag("simulated"), sums=_sums_of(group))
            for group in read.objects("groups")
        ),
    )


def _sums_of(read: Reader) -> CostSums:
    return CostSums(
        executions=read.integer("executions"),
        usage=usage_of(read),
        cost_nanodollars=read.integer("cost_nanodollars"),
        internal_value_nanodollars=read.integer("internal_value_nanodollars"),
        unpriced_executions=read.integer("unpriced_executions"),
        possibly_billed_executions=read.integer("possibly_billed_executions"),
        possibly_billed_nanodollars=read.integer("possibly_billed_nanodollars"),
    )


def _expected(read: Reader) -> ExpectedDemand:
    names = ("provider", "model", "role")
    found = {name: text for name in names if (text := read.optional_text(name)) is not None}
    return ExpectedDemand(key=found, history_hours=read.integer("history_hours"), busy_calls=read.numbers("busy_calls"))
