"""The places a worker can ask, what each is doing, and who waits for a free slot.

Who waits longest goes first, but batch work counts as having come `BATCH_HANDICAP_SECONDS` later than it did: what is
urgent overtakes it, and nothing waits for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from headrace_contracts.events import Lane

from headrace_models.errors import ProviderError
from headrace_models.ports import ChatResult, Provider, ProviderStatus
from headrace_models.worker.breaker import CLOSED, Breaker, BreakerPolicy, after_call

BATCH_HANDICAP_SECONDS: Final = 10.0

_NOT_LOOKED_AT: Final = ProviderStatus(False, "has not been looked at yet")
_WEIGHT_OF_NEWEST: Final = 0.3
"""Of moving averages: the last few calls make the picture."""


class NobodyOffers(Exception):
    """Give the attempt back: no healthy place offers what it asks for."""


@dataclass(frozen=True, slots=True)
class PlaceView:
    """One place at one moment, for choosing among them.

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


Choose = Callable[[Sequence[PlaceView], str], PlaceView | None]
"""The best of some healthy places for a model; None when none of them offers it. A place without a free slot may be
chosen: then the call waits for it, or for another one."""


class Place:
    """One node or provider, and what is known of it.

    Args:
        slots: Calls it gets at once.
        hardware: Labels for the fleet.
    """

    def __init__(self, provider: Provider, slots: int, hardware: Mapping[str, str] | None = None) -> None:
        self.provider = provider
        self.slots = slots
        self.hardware = dict(hardware or {})
        self.busy = 0
        self.idle = asyncio.Event()
        """Set while no call has a slot."""
        self.idle.set()
        self.status = _NOT_LOOKED_AT
        self.doubted = asyncio.Event()
        """Set when a call could not reach it: whoever looks at places should look at once."""
        self._models: frozenset[str] = frozenset()
        self._loaded: frozenset[str] = frozenset()
        self.breaker: Breaker = CLOSED
        self.seconds: dict[str, float] = {}
        self.tokens_per_second: float | None = None

    @property
    def name(self) -> str:
        return self.provider.node

    def take(self) -> None:
        """One call more has a slot."""
        self.busy += 1
        self.idle.clear()

    def give_back(self) -> None:
        """One call less has a slot."""
        self.busy -= 1
        if self.busy == 0:
            self.idle.set()

    def objection(self, now: float) -> str | None:
        """Why it takes no call now; None when it does."""
        if not self.status.healthy:
            return self.status.reason
        return self.breaker.objection(now)

    def seen(self, status: ProviderStatus) -> None:
        """It has been looked at."""
        self.status = status
        self._models = frozenset(model.name for model in status.models)
        self._loaded = frozenset(model.name for model in status.models if model.loaded)

    def view(self) -> PlaceView:
        return PlaceView(
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
class _Waiter:
    provider: str
    model: str
    rank: float
    granted: asyncio.Future[Place] = field(repr=False)


class Onlooker(Protocol):
    """Told who is in a pool."""

    def joined(self, place: Place) -> None:
        """A place is in the pool."""

    def left(self, place: Place) -> None:
        """A place is no longer in the pool; its last calls may still be running."""


class Pool:
    """Hands out slots of places, which may come and go.

    Args:
        choose: Which of several healthy places of a provider is best for a model.
    """

    def __init__(self, places: Sequence[Place], choose: Choose, policy: BreakerPolicy | None = None) -> None:
        self.places = {place.name: place for place in places}
        if len(self.places) < len(places):
            raise ValueError("two places have the same name")
        self.changed = asyncio.Event()
        """Set when the health of a place has changed, for whoever reports it."""
        self._choose = choose
        self._policy = policy or BreakerPolicy()
        self._waiters: list[_Waiter] = []
        self._onlookers: list[Onlooker] = []

    def follow(self, onlooker: Onlooker) -> None:
        """Tell somebody of the places that are here now, and of all that come and go from now on."""
        self._onlookers.append(onlooker)
        for place in self.places.values():
            onlooker.joined(place)

    def join(self, place: Place) -> None:
        """Take in a place. It gets calls when it has been looked at. Raises ValueError when its name is taken."""
        if place.name in self.places:
            raise ValueError(f"a place called {place.name} is in the pool already")
        self.places[place.name] = place
        place.doubted.set()
        for onlooker in self._onlookers:
            onlooker.joined(place)

    def leave(self, name: str) -> Place:
        """Let a place go: it gets no call from now on. Those it has run on; its `idle` tells when they are done."""
        place = self.places.pop(name)
        for onlooker in self._onlookers:
            onlooker.left(place)
        self._grant(everyone=True)
        return place

    def resize(self, name: str, slots: int, hardware: Mapping[str, str]) -> None:
        """A place has other slots or labels than before; calls beyond the slots run on."""
        place = self.places[name]
        place.slots, place.hardware = slots, dict(hardware)
        self.changed.set()
        self._grant()

    @property
    def waiting(self) -> int:
        """Calls that wait for a slot."""
        return len(self._waiters)

    async def acquire(self, provider: str, model: str, lane: Lane, within_seconds: float | None) -> Place:
        """A slot of a place that offers a model; to be given back by `release`.

        Raises NobodyOffers, also when the last place that does goes while waiting, and TimeoutError.
        """
        best = self._best(provider, model)
        if best.busy < best.slots and not self._waiters:
            best.take()
            return best
        loop = asyncio.get_running_loop()
        rank = loop.time() + (BATCH_HANDICAP_SECONDS if lane is Lane.BATCH else 0.0)
        waiter = _Waiter(provider, model, rank, loop.create_future())
        self._waiters.append(waiter)
        self._waiters.sort(key=lambda one: one.rank)
        self._grant()
        try:
            async with asyncio.timeout(within_seconds):
                return await waiter.granted
        except BaseException:
            if waiter.granted.done() and not waiter.granted.cancelled() and waiter.granted.exception() is None:
                self._free(waiter.granted.result())
            raise
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def release(self, place: Place, ended: ChatResult | ProviderError | None, model: str) -> None:
        """Give a slot back, with how its call ended: None when that says nothing about the place."""
        if ended is not None:
            now = asyncio.get_running_loop().time()
            before = place.objection(now)
            error = ended if isinstance(ended, ProviderError) else None
            place.breaker = after_call(place.breaker, error, now, self._policy)
            if error is not None and error.code == "unreachable":
                place.seen(replace(place.status, healthy=False, reason=error.message))
                place.doubted.set()
            if isinstance(ended, ChatResult):
                _observe(place, model, ended)
            if place.objection(now) != before:
                self.changed.set()
                place.give_back()
                self._grant(everyone=True)
                return
        self._free(place)

    def update(self, name: str, status: ProviderStatus) -> None:
        """A place of the pool has been looked at."""
        place = self.places[name]
        if place.status != status:
            place.seen(status)
            self.changed.set()
        self._grant(everyone=True)

    def _free(self, place: Place) -> None:
        place.give_back()
        self._grant()

    def _best(self, provider: str, model: str) -> Place:
        now = asyncio.get_running_loop().time()
        objections: list[str] = []
        views: list[PlaceView] = []
        for place in self.places.values():
            if place.provider.provider == provider:
                objection = place.objection(now)
                if objection is None:
                    views.append(place.view())
                else:
                    objections.append(f"{place.name}: {objection}")
        chosen = self._choose(views, model)
        if chosen is not None:
            return self.places[chosen.name]
        if objections:
            raise NobodyOffers(f"no healthy place offers {provider}/{model} now ({'; '.join(objections)})")
        raise NobodyOffers(f"nobody here offers {provider}/{model}")

    def _grant(self, *, everyone: bool = False) -> None:
        """Give free slots to who waits; with `everyone`, also tell those for whom nobody is left."""
        for waiter in list(self._waiters):
            if not everyone and all(place.busy >= place.slots for place in self.places.values()):
                return
            if waiter.granted.done():
                continue
            try:
                best = self._best(waiter.provider, waiter.model)
            except NobodyOffers as error:
                waiter.granted.set_exception(error)
                self._waiters.remove(waiter)
                continue
            if best.busy < best.slots:
                best.take()
                waiter.granted.set_result(best)
                self._waiters.remove(waiter)


def _observe(place: Place, model: str, result: ChatResult) -> None:
    place.seconds[model] = _average(place.seconds.get(model), result.total_ms / 1000)
    writing = (result.total_ms - result.first_token_ms) / 1000
    if result.usage.output_tokens > 1 and writing > 0:
        place.tokens_per_second = _average(place.tokens_per_second, result.usage.output_tokens / writing)


def _average(before: float | None, newest: float) -> float:
    return newest if before is None else before + _WEIGHT_OF_NEWEST * (newest - before)
