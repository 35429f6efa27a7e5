"""One node or provider of a worker: its slots, what it offers, how long its calls take, and who had how much of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from headrace_contracts.events import PlacementStatus

from headrace_models.ports import ChatResult, Provider, ProviderStatus
from headrace_models.worker.avoidance import Avoided
from headrace_models.worker.breaker import CLOSED, Breaker
from headrace_models.worker.fair_shares import FairShares
from headrace_models.worker.recent_times import RecentTimes
from headrace_models.worker.watched_call import WatchedCalls

NOT_LOOKED_AT: Final = ProviderStatus(False, "has not been probed yet")
_UNKNOWN_SECONDS: Final = 1.0
"""Assumed for a call at an endpoint that has answered none yet."""
_WEIGHT_OF_NEWEST: Final = 0.3
"""Weight of the newest value in moving averages: the last few calls dominate."""


@dataclass(frozen=True, slots=True)
class EndpointView:
    """Snapshot of one endpoint, for choosing among several.

    Attributes:
        seconds: Observed time of a call, by model.
    """

    name: str
    provider: str
    models: frozenset[str]
    loaded: frozenset[str]
    slots: int
    busy: int
    seconds: Mapping[str, float]
    latency_ms: float | None = None

    @property
    def free(self) -> int:
        return self.slots - self.busy


class Endpoint:
    """One node or provider, and its state.

    Args:
        slots: Number of concurrent calls.
        hardware: Labels for the fleet status.
    """

    def __init__(self, provider: Provider, slots: int, hardware: Mapping[str, str] | None = None) -> None:
        self.provider = provider
        self.slots = slots
        self.hardware = dict(hardware or {})
        self.busy = 0
        self.placements: tuple[PlacementStatus, ...] = ()
        """What became of the newest placement requests, oldest first."""
        self.idle = asyncio.Event()
        """Set while it runs no call."""
        self.idle.set()
        self.status = NOT_LOOKED_AT
        self.doubted = asyncio.Event()
        """Set when a call could not reach it, to trigger a probe at once."""
        self._models: frozenset[str] = frozenset()
        self._loaded: frozenset[str] = frozenset()
        self.breaker: Breaker = CLOSED
        self.seconds: dict[str, float] = {}
        self.recent: dict[str, RecentTimes] = {}
        self.tokens_per_second: float | None = None
        self._shares = FairShares()
        self.avoided: dict[str, Avoided] = {}
        """What is held against it, by model."""
        self.calls = WatchedCalls()
        """The calls that it runs."""
        self.first_tokens: dict[str, RecentTimes] = {}
        self.withheld: dict[str, str] = {}
        """Why it gets no new calls whatever its health, by who decided so."""

    @property
    def name(self) -> str:
        return self.provider.node

    def least_seconds(self, model: str, now: float) -> float:
        """A call with less time than this before its deadline is in vain: see `RecentTimes.least`."""
        recent = self.recent.get(model)
        return 0.0 if recent is None else recent.least(now)

    def ample_seconds(self, model: str, now: float) -> float:
        """A call with this much time will almost certainly be in time."""
        recent = self.recent.get(model)
        return 0.0 if recent is None else recent.ample(now)

    def offers(self, model: str) -> bool:
        """Whether it lists a model."""
        return model in self._models

    def usual_seconds(self, model: str) -> float:
        """What a call usually takes: of this model, else of all."""
        known = self.seconds.get(model)
        if known is not None:
            return known
        return sum(self.seconds.values()) / len(self.seconds) if self.seconds else _UNKNOWN_SECONDS

    def claim_of(self, tenant: str, now: float) -> float:
        """How much of it a tenant has had for its weight: see `FairShares`."""
        return self._shares.claim(tenant, now)

    def is_avoided(self, model: str, now: float) -> bool:
        """Whether it failed with a model a short time ago: others go first."""
        held = self.avoided.get(model)
        return held is not None and now < held.until

    def take(self, tenant: str, weight: int, model: str, now: float) -> None:
        """A call takes a slot."""
        self.busy += 1
        self.idle.clear()
        self._shares.began(tenant, weight, now, self.usual_seconds(model))

    def give_back(self, tenant: str, now: float) -> None:
        """A call returns its slot."""
        self.busy -= 1
        if self.busy == 0:
            self.idle.set()
        self._shares.ended(tenant, now)

    def awaited_by(self, tenants: AbstractSet[str], now: float) -> None:
        """These tenants wait for it now."""
        self._shares.wait(tenants, now)

    def objection(self, now: float) -> str | None:
        """Why it accepts no call now; None if it does."""
        if self.withheld:
            return next(iter(self.withheld.values()))
        if not self.status.healthy:
            return self.status.reason
        return self.breaker.objection(now)

    def seen(self, status: ProviderStatus) -> None:
        """Record the result of a probe."""
        self.status = status
        self._models = frozenset(model.name for model in status.models)
        self._loaded = frozenset(model.name for model in status.models if model.loaded)

    def probed(self, status: ProviderStatus, now: float) -> None:
        """As `seen`, and gives up calls of which nothing can be expected any more."""
        self.seen(status)
        self.calls.probed(
            now,
            unreachable=status.unreachable,
            is_loaded=self._loaded.__contains__,
            usual_seconds=lambda model: self.first_tokens[model].ample(now) if model in self.first_tokens else 0.0,
        )

    def view(self) -> EndpointView:
        return EndpointView(
            name=self.name,
            provider=self.provider.provider,
            models=self._models,
            loaded=self._loaded,
            slots=self.slots,
            busy=self.busy,
            seconds=self.seconds,
            latency_ms=self.status.latency_ms,
        )

    def observe(self, model: str, result: ChatResult, now: float) -> None:
        """A call has ended with an answer."""
        self.seconds[model] = _average(self.seconds.get(model), result.total_ms / 1000)
        self.recent.setdefault(model, RecentTimes()).observe(now, result.total_ms / 1000)
        self.first_tokens.setdefault(model, RecentTimes()).observe(now, result.first_token_ms / 1000)
        writing = (result.total_ms - result.first_token_ms) / 1000
        if result.usage.output_tokens > 1 and writing > 0:
            self.tokens_per_second = _average(self.tokens_per_second, result.usage.output_tokens / writing)

    def cut_off(self, model: str, seconds: float, now: float) -> None:
        """A call took too long, and was ended after `seconds`."""
        self.recent.setdefault(model, RecentTimes()).cut_off(now, seconds)


def _average(before: float | None, newest: float) -> float:
    return newest if before is None else before + _WEIGHT_OF_NEWEST * (newest - before)
