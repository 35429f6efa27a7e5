"""A worker's endpoints, the calls they run, and the calls that wait for a free slot (`in_order`)."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from headrace_contracts.events import Lane

from headrace_models.errors import ProviderError
from headrace_models.ports import ChatResult, EmbedResult, Provider, ProviderStatus
from headrace_models.worker.breaker import CLOSED, Breaker, BreakerPolicy, after_call
from headrace_models.worker.recent_times import RecentTimes
from headrace_models.worker.waiting_calls import WaitingCall, in_order, rank_of

_SHORTEST_WAIT_SECONDS: Final = 0.001

_NOT_LOOKED_AT: Final = ProviderStatus(False, "has not been probed yet")
_WEIGHT_OF_NEWEST: Final = 0.3
"""Weight of the newest value in moving averages: the last few calls dominate."""


class ModelNotOffered(Exception):
    """Do not run the attempt here: no healthy endpoint offers what it asks for."""


class TooLittleTime(Exception):
    """Do not begin the call: it would be cut off before its model answers."""

    def __init__(self, model: str, seconds_left: float, least_seconds: float) -> None:
        super().__init__(f"{seconds_left:.3g} s are left, and {model} has lately taken {least_seconds:.3g} s at least")


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


Choose = Callable[[Sequence[EndpointView], str], EndpointView | None]
"""Chooses the best of some healthy endpoints for a model; None if none of them offers it. It may choose an endpoint
without a free slot: then the call waits for that one, or for another."""


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
        self.idle = asyncio.Event()
        """Set while it runs no call."""
        self.idle.set()
        self.status = _NOT_LOOKED_AT
        self.doubted = asyncio.Event()
        """Set when a call could not reach it, to trigger a probe at once."""
        self._models: frozenset[str] = frozenset()
        self._loaded: frozenset[str] = frozenset()
        self.breaker: Breaker = CLOSED
        self.seconds: dict[str, float] = {}
        self.recent: dict[str, RecentTimes] = {}
        self.tokens_per_second: float | None = None

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

    def take(self) -> None:
        """A call takes a slot."""
        self.busy += 1
        self.idle.clear()

    def give_back(self) -> None:
        """A call returns its slot."""
        self.busy -= 1
        if self.busy == 0:
            self.idle.set()

    def objection(self, now: float) -> str | None:
        """Why it accepts no call now; None if it does."""
        if not self.status.healthy:
            return self.status.reason
        return self.breaker.objection(now)

    def seen(self, status: ProviderStatus) -> None:
        """Record the result of a probe."""
        self.status = status
        self._models = frozenset(model.name for model in status.models)
        self._loaded = frozenset(model.name for model in status.models if model.loaded)

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


@dataclass(slots=True, eq=False)
class _Waiter(WaitingCall):
    granted: asyncio.Future[Endpoint] = field(repr=False)


class PoolObserver(Protocol):
    """Called when endpoints join or leave a pool."""

    def joined(self, endpoint: Endpoint) -> None:
        """An endpoint has joined the pool."""

    def left(self, endpoint: Endpoint) -> None:
        """An endpoint has left the pool; its last calls may still be running."""


class Pool:
    """Assigns slots of endpoints, which may join and leave.

    Args:
        choose: Chooses the best of several healthy endpoints of a provider for a model.
    """

    def __init__(self, endpoints: Sequence[Endpoint], choose: Choose, policy: BreakerPolicy | None = None) -> None:
        self.endpoints = {endpoint.name: endpoint for endpoint in endpoints}
        if len(self.endpoints) < len(endpoints):
            raise ValueError("two endpoints have the same name")
        self.changed = asyncio.Event()
        """Set when the health of an endpoint has changed, to trigger a report."""
        self._choose = choose
        self._policy = policy or BreakerPolicy()
        self._waiters: list[_Waiter] = []
        # When tenants that wait had their last turn, by a number that grows.
        self._turns: dict[str, int] = {}
        self._grants = 0
        self._observers: list[PoolObserver] = []

    def follow(self, observer: PoolObserver) -> None:
        """Notify an observer of the current endpoints, and of all that join and leave from now on."""
        self._observers.append(observer)
        for endpoint in self.endpoints.values():
            observer.joined(endpoint)

    def join(self, endpoint: Endpoint) -> None:
        """Add an endpoint. It gets calls once it has been probed. Raises ValueError if its name is taken."""
        if endpoint.name in self.endpoints:
            raise ValueError(f"an endpoint called {endpoint.name} is already in the pool")
        self.endpoints[endpoint.name] = endpoint
        endpoint.doubted.set()
        for observer in self._observers:
            observer.joined(endpoint)

    def leave(self, name: str) -> Endpoint:
        """Remove an endpoint: it gets no new calls. Running calls continue; its `idle` is set when they have ended."""
        endpoint = self.endpoints.pop(name)
        for observer in self._observers:
            observer.left(endpoint)
        self._grant(everyone=True)
        return endpoint

    def resize(self, name: str, slots: int, hardware: Mapping[str, str]) -> None:
        """Change an endpoint's slots and labels; calls beyond the new number of slots continue."""
        endpoint = self.endpoints[name]
        endpoint.slots, endpoint.hardware = slots, dict(hardware)
        self.changed.set()
        self._grant()

    @property
    def waiting(self) -> int:
        """Number of calls waiting for a slot."""
        return len(self._waiters)

    async def acquire(
        self, provider: str, model: str, lane: Lane, within_seconds: float | None, tenant: str = ""
    ) -> Endpoint:
        """A slot of an endpoint that offers a model; return it with `release`.

        Raises ModelNotOffered, also when the last such endpoint leaves during the wait, TooLittleTime as soon as less
        is left than a call takes at least, and TimeoutError.
        """
        best = self._best(provider, model)
        loop = asyncio.get_running_loop()
        due = None if within_seconds is None else loop.time() + within_seconds
        self._insist_on_time(provider, model, due)
        if best.busy < best.slots and not self._waiters:
            best.take()
            return best
        now = loop.time()
        waiter = _Waiter(provider, model, tenant, now, rank_of(lane, now), due, loop.create_future())
        self._waiters.append(waiter)
        self._grant()
        try:
            while due is not None and not waiter.granted.done():
                # What is usual may change during the wait.
                await asyncio.wait([waiter.granted], timeout=self._insist_on_time(provider, model, due))
            return await waiter.granted
        except BaseException:
            if waiter.granted.done() and not waiter.granted.cancelled() and waiter.granted.exception() is None:
                self._free(waiter.granted.result())
            raise
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def _insist_on_time(self, provider: str, model: str, due: float | None) -> float:
        """Seconds until a call that must end by then has to begin at the fastest endpoint. Raises TooLittleTime and
        TimeoutError."""
        if due is None:
            return math.inf
        now = asyncio.get_running_loop().time()
        least = min([one.least_seconds(model, now) for one in self._offering(provider, model)], default=0.0)
        if due <= now:
            raise TimeoutError
        if due - now <= least:
            raise TooLittleTime(f"{provider}/{model}", due - now, least)
        # A shorter wait may be none at all to a clock, and would be repeated without end.
        return max(_SHORTEST_WAIT_SECONDS, due - now - least)

    def release(self, endpoint: Endpoint, ended: ChatResult | EmbedResult | ProviderError | None, model: str) -> None:
        """Return a slot, with the result of its call: None if that says nothing about the endpoint."""
        now = asyncio.get_running_loop().time()
        before = endpoint.objection(now)
        try:
            if ended is not None:
                self._learn(endpoint, ended, model, now)
        finally:
            # Whatever the result looks like: a slot that is not given back is lost until the worker is restarted.
            endpoint.give_back()
            changed = endpoint.objection(now) != before
            if changed:
                self.changed.set()
            self._grant(everyone=changed)

    def _learn(
        self, endpoint: Endpoint, ended: ChatResult | EmbedResult | ProviderError, model: str, now: float
    ) -> None:
        error = ended if isinstance(ended, ProviderError) else None
        endpoint.breaker = after_call(endpoint.breaker, error, now, self._policy)
        if error is not None and error.code == "unreachable":
            endpoint.seen(replace(endpoint.status, healthy=False, reason=error.message))
            endpoint.doubted.set()
        if error is not None and error.code == "answered_remotely":
            # Its list of models has changed, or never told the truth.
            endpoint.doubted.set()
        if isinstance(ended, ChatResult):
            _observe(endpoint, model, ended, now)

    def update(self, name: str, status: ProviderStatus) -> None:
        """Record the result of probing an endpoint of the pool."""
        endpoint = self.endpoints[name]
        if endpoint.status != status:
            endpoint.seen(status)
            self.changed.set()
        self._grant(everyone=True)

    def _free(self, endpoint: Endpoint) -> None:
        endpoint.give_back()
        self._grant()

    def _best(self, provider: str, model: str) -> Endpoint:
        now = asyncio.get_running_loop().time()
        objections: list[str] = []
        views: list[EndpointView] = []
        for endpoint in self.endpoints.values():
            if endpoint.provider.provider == provider:
                objection = endpoint.objection(now)
                if objection is None:
                    views.append(endpoint.view())
                else:
                    objections.append(f"{endpoint.name}: {objection}")
        chosen = self._choose(views, model)
        if chosen is not None:
            return self.endpoints[chosen.name]
        if objections:
            raise ModelNotOffered(f"no healthy endpoint offers {provider}/{model} now ({'; '.join(objections)})")
        raise ModelNotOffered(f"no endpoint of this worker offers {provider}/{model}")

    def _grant(self, *, everyone: bool = False) -> None:
        """Assign free slots to waiting calls; with `everyone`, also fail those that no endpoint can serve any more."""
        if not everyone and self._is_full():
            return
        for waiter in self._in_order():
            if not everyone and self._is_full():
                return
            if waiter.granted.done():
                continue
            try:
                best = self._best(waiter.provider, waiter.model)
            except ModelNotOffered as error:
                waiter.granted.set_exception(error)
                self._waiters.remove(waiter)
                continue
            if best.busy < best.slots:
                best.take()
                waiter.granted.set_result(best)
                self._waiters.remove(waiter)
                self._grants += 1
                self._turns[waiter.tenant] = self._grants

    def _is_full(self) -> bool:
        return all(endpoint.busy >= endpoint.slots for endpoint in self.endpoints.values())

    def _in_order(self) -> Sequence[_Waiter]:
        now = asyncio.get_running_loop().time()
        here = {waiter.tenant for waiter in self._waiters}
        # Who comes back is first again: a turn that was long ago is no debt.
        self._turns = {tenant: turn for tenant, turn in self._turns.items() if tenant in here}

        def ample_seconds(provider: str, model: str) -> float:
            return min([one.ample_seconds(model, now) for one in self._offering(provider, model)], default=0.0)

        return in_order(self._waiters, self._turns, now, ample_seconds)

    def _offering(self, provider: str, model: str) -> Sequence[Endpoint]:
        return [one for one in self.endpoints.values() if one.provider.provider == provider and one.offers(model)]


def _observe(endpoint: Endpoint, model: str, result: ChatResult, now: float) -> None:
    endpoint.seconds[model] = _average(endpoint.seconds.get(model), result.total_ms / 1000)
    endpoint.recent.setdefault(model, RecentTimes()).observe(now, result.total_ms / 1000)
    writing = (result.total_ms - result.first_token_ms) / 1000
    if result.usage.output_tokens > 1 and writing > 0:
        endpoint.tokens_per_second = _average(endpoint.tokens_per_second, result.usage.output_tokens / writing)


def _average(before: float | None, newest: float) -> float:
    return newest if before is None else before + _WEIGHT_OF_NEWEST * (newest - before)
