"""Assigns the slots of a worker's endpoints to calls, and holds those that wait for one (`next_of`).

A call goes where it is expected to end first (`prospects`). That may be an endpoint whose slots are all taken: then it
waits, behind the others that do, and takes a free slot elsewhere as soon as that is better, by the next end of a call
or the next probe. With a backlog no endpoint is idle: the queue before a fast one soon takes longer than a slow one
does.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Final, Protocol

from headrace_contracts.events import Lane

from headrace_models.errors import ProviderError
from headrace_models.ports import ChatResult, EmbedResult, ProviderStatus
from headrace_models.worker import waiting_calls
from headrace_models.worker.breaker import BreakerPolicy
from headrace_models.worker.displacing import Displaceable, displaced
from headrace_models.worker.endpoint import Endpoint, EndpointView
from headrace_models.worker.estimates import UNSIZED, CallSize, OutputLengths
from headrace_models.worker.learning import learn
from headrace_models.worker.own_delay import OwnDelay
from headrace_models.worker.prospects import Prospect, Queues, prospects, run_seconds, views
from headrace_models.worker.waiting_calls import WaitingCall, next_of, rank_of
from headrace_models.worker.warm_prefixes import WarmPrefixes, within_bound

_SHORTEST_WAIT_SECONDS: Final = 0.001

_WAITERS: Final = 8
"""Calls that may wait for endpoints whatever else does, beside one for each slot: one for each of a few tenants."""
_MOST_KINDS: Final = 1_000
"""Of so many models it is remembered who offers them: names come from outside."""


class ModelNotOffered(Exception):
    """Do not run the attempt here: no healthy endpoint offers what it asks for."""


class TooLittleTime(Exception):
    """Do not begin the call: it would be cut off before its model answers."""

    def __init__(self, model: str, seconds_left: float, least_seconds: float) -> None:
        super().__init__(f"{seconds_left:.3g} s are left, and {model} needs {least_seconds:.3g} s by its last calls")


Choose = Callable[[Sequence[EndpointView], str], EndpointView | None]
"""Chooses the best of some healthy endpoints for a model; None if none of them offers it. It may choose an endpoint
without a free slot: then the call waits for that one, or for another."""


_Kind = tuple[str, str, frozenset[str], int, int, tuple[tuple[str, int], ...]]


@dataclass(slots=True, eq=False, kw_only=True)
class _Waiter(WaitingCall):
    without: frozenset[str]
    warm: Mapping[str, int]
    granted: asyncio.Future[Endpoint] = field(repr=False)

    @property
    def kind(self) -> _Kind:
        """Calls of one kind are about as well done at the same endpoint."""
        most = self.size.max_output_tokens
        return (
            self.provider, self.model, self.without,
            self.size.prompt_tokens.bit_length(), -1 if most is None else most.bit_length(),
            tuple(sorted((name, tokens.bit_length()) for name, tokens in self.warm.items())),
        )  # fmt: skip


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
        displaces_above: Batch calls that allow it are interrupted for interactive ones that would wait for more seconds
            than that (`displacing`); None for never.
        warm: What endpoints have read last, for endpoints that keep it (`warm_prefixes`); None if they do not.
    """

    def __init__(
        self, endpoints: Sequence[Endpoint], choose: Choose, policy: BreakerPolicy | None = None, *,
        displaces_above: float | None = None, warm: WarmPrefixes | None = None,
    ) -> None:  # fmt: skip
        self.endpoints = {endpoint.name: endpoint for endpoint in endpoints}
        if len(self.endpoints) < len(endpoints):
            raise ValueError("two endpoints have the same name")
        self.changed = asyncio.Event()
        """Set when the health of an endpoint has changed, to trigger a report."""
        self._choose = choose
        self._displaces_above = displaces_above
        self._warm = warm
        self._policy = policy or BreakerPolicy()
        self._waiters: list[_Waiter] = []
        self._kinds: dict[tuple[str, str], frozenset[str]] = {}
        self._lengths: dict[str, OutputLengths] = {}
        self._observers: list[PoolObserver] = []
        self._own_delay = OwnDelay(lambda: any(endpoint.busy for endpoint in self.endpoints.values()))
        for endpoint in endpoints:
            endpoint.lengths, endpoint.own_delay = self._lengths, self._own_delay

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
        endpoint.lengths, endpoint.own_delay = self._lengths, self._own_delay
        self._kinds.clear()
        endpoint.doubted.set()
        for observer in self._observers:
            observer.joined(endpoint)

    def leave(self, name: str) -> Endpoint:
        """Remove an endpoint: it gets no new calls. Running calls continue; its `idle` is set when they have ended."""
        endpoint = self.endpoints.pop(name)
        self._kinds.clear()
        if self._warm is not None:
            self._warm.forget(name)
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

    def withhold(self, name: str, decided_by: str, reason: str | None) -> None:
        """Give an endpoint no new calls for this reason, until told None; running calls continue."""
        endpoint = self.endpoints[name]
        if reason == endpoint.withheld.get(decided_by):
            return
        if reason is None:
            del endpoint.withheld[decided_by]
        else:
            endpoint.withheld[decided_by] = reason
        self.changed.set()
        self._grant(everyone=True)

    @property
    def waiting(self) -> int:
        """Number of calls waiting for a slot."""
        return len(self._waiters)

    async def acquire(
        self,
        provider: str,
        model: str,
        lane: Lane,
        within_seconds: float | None,
        tenant: str = "",
        weight: int = 1,
        waited_seconds: float = 0.0,
        without: frozenset[str] = frozenset(),
        size: CallSize = UNSIZED,
    ) -> Endpoint:
        """A slot of an endpoint that offers a model, but for those named; return it with `release`.

        Tenants that wait share the seconds of an endpoint's slots by weight.

        Args:
            waited_seconds: How long the attempt has waited elsewhere, before it came here.
            size: What is known of the call, which this very object stands for.

        Raises ModelNotOffered, also when the last such endpoint leaves during the wait, TooLittleTime as soon as less
        is left than a call takes at least, or than is ample once it has waited for `OLD_SECONDS`, and TimeoutError.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._own_delay.watch()
        due = None if within_seconds is None else now + within_seconds
        warm = self._warm_at(provider, model, size)
        best, free, _ = self._best(self._prospects(provider, model, without, size, now, warm), model, Queues(now))
        if free > 0 and not self._waiters:
            # However long it has waited: nobody else wants the slot.
            self._insist_on_time(provider, model, due, now, size)
            self._begin(best, tenant, weight, model, now, size, lane)
            return best
        since = now - waited_seconds
        self._insist_on_time(provider, model, due, since, size)
        waiter = _Waiter(
            provider, model, tenant, weight, since, rank_of(lane, now), due, lane, size,
            without=without, warm=warm, granted=loop.create_future(),
        )  # fmt: skip
        self._waiters.append(waiter)
        self._grant()
        try:
            while due is not None and not waiter.granted.done():
                # What is usual may change during the wait.
                await asyncio.wait([waiter.granted], timeout=self._insist_on_time(provider, model, due, since, size))
            return await waiter.granted
        except BaseException:
            if waiter.granted.done() and not waiter.granted.cancelled() and waiter.granted.exception() is None:
                self._free(waiter.granted.result(), tenant, size)
            raise
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def _insist_on_time(self, provider: str, model: str, due: float | None, since: float, size: CallSize) -> float:
        """Seconds until a call that must end by `due`, and waits since then, is to be looked at again. Raises
        TooLittleTime, if it must have begun before now at the fastest endpoint, and TimeoutError."""
        if due is None:
            return math.inf
        now = asyncio.get_running_loop().time()
        if due <= now:
            raise TimeoutError
        left, is_old = due - now, now - since >= waiting_calls.OLD_SECONDS
        offering = self._offering(provider, model)
        least = min([one.least_seconds(model, now, size) for one in offering], default=0.0)
        if is_old:
            # There are more calls than slots: one that may or may not make it would take the slot of one that does.
            least = max(least, min([one.ample_seconds(model, now, size) for one in offering], default=0.0))
        if left <= least:
            raise TooLittleTime(f"{provider}/{model}", left, least)
        again = left - least if is_old else min(left - least, since + waiting_calls.OLD_SECONDS - now)
        # A shorter wait may be none at all to a clock, and would be repeated without end.
        return max(_SHORTEST_WAIT_SECONDS, again)

    def release(
        self,
        endpoint: Endpoint,
        ended: ChatResult | EmbedResult | ProviderError | None,
        model: str,
        tenant: str = "",
        seconds: float = 0.0,
        size: CallSize = UNSIZED,
    ) -> None:
        """Return a slot, with the result of its call: None if that says nothing about the endpoint.

        Args:
            seconds: How long the call took.
            size: As it was acquired with.
        """
        now = asyncio.get_running_loop().time()
        before = endpoint.objection(now)
        try:
            if ended is not None:
                offering = self._offering(endpoint.provider.provider, model)
                if isinstance(ended, ChatResult):
                    self._lengths.setdefault(model, OutputLengths()).observe(ended.usage.output_tokens)
                learn(endpoint, offering, ended, model, size, now, seconds, self._policy)
        finally:
            # Whatever the result looks like: a slot that is not given back is lost until the worker is restarted.
            endpoint.give_back(tenant, now, size)
            changed = endpoint.objection(now) != before
            if changed:
                self.changed.set()
            self._grant(everyone=changed)

    def update(self, name: str, status: ProviderStatus) -> None:
        """Record the result of probing an endpoint of the pool."""
        endpoint = self.endpoints[name]
        changed = endpoint.status != status
        endpoint.probed(status, asyncio.get_running_loop().time())
        if self._warm is not None and not status.healthy:
            # It may come back with nothing in memory.
            self._warm.forget(name)
        if changed:
            self._kinds.clear()
            self.changed.set()
        self._grant(everyone=True)

    def serving(self, provider: str, model: str) -> AbstractSet[str]:
        """The names of the endpoints that may run a model, whether or not they do now: calls with the same ones need
        the same slots."""
        found = self._kinds.get((provider, model))
        if found is None:
            if len(self._kinds) >= _MOST_KINDS:
                self._kinds.clear()
            found = self._kinds[provider, model] = frozenset(
                one.name
                for one in self.endpoints.values()
                if one.provider.provider == provider and self._choose([one.view()], model) is not None
            )
        return found

    def useful_calls(self, serving: AbstractSet[str]) -> int:
        """How many calls are of use to these endpoints at once: as many as they have slots, and as many again and some
        more that wait, so that whoever is next by weight and deadline is among them. A few also if there is none of
        these endpoints, so that calls which nobody serves are told."""
        slots = sum(self.endpoints[name].slots for name in serving if name in self.endpoints)
        return 2 * slots + _WAITERS

    def expected_seconds(self, provider: str, model: str, size: CallSize = UNSIZED) -> float | None:
        """What a call takes at the endpoint where it takes least; None if none offers its model."""
        now = asyncio.get_running_loop().time()
        return min(run_seconds(self._offering(provider, model), model, size, now), default=None)

    def _free(self, endpoint: Endpoint, tenant: str, size: CallSize) -> None:
        endpoint.give_back(tenant, asyncio.get_running_loop().time(), size)
        self._grant()

    def _prospects(
        self,
        provider: str,
        model: str,
        without: frozenset[str],
        size: CallSize,
        now: float,
        warm: Mapping[str, int],
    ) -> tuple[Sequence[Prospect], Sequence[Prospect]]:
        """The endpoints that may run a call, and those to which it goes only if it must. Raises ModelNotOffered."""
        objections: list[str] = []
        fit: list[Endpoint] = []
        avoided: list[Endpoint] = []
        for endpoint in self.endpoints.values():
            if endpoint.provider.provider == provider and endpoint.name not in without:
                objection = endpoint.objection(now)
                if objection is not None:
                    objections.append(f"{endpoint.name}: {objection}")
                else:
                    (avoided if endpoint.is_avoided(model, now) else fit).append(endpoint)
        found = _with_warm(prospects(fit, model, size, now), model, size, warm), prospects(avoided, model, size, now)
        if not any(self._choose([one.endpoint.view(one.free) for one in some], model) for some in found):
            if objections:
                raise ModelNotOffered(f"no healthy endpoint offers {provider}/{model} now ({'; '.join(objections)})")
            raise ModelNotOffered(f"no endpoint of this worker offers {provider}/{model}")
        return found

    def _warm_at(self, provider: str, model: str, size: CallSize) -> Mapping[str, int]:
        """The tokens of a call's prompt that need not be read again, by endpoint; only of those where there are any."""
        if self._warm is None or not size.prefix:
            return {}
        offering = self._offering(provider, model)
        known = {one.name: self._warm.warm_tokens(one.name, model, size.prefix) for one in offering}
        return {name: tokens for name, tokens in known.items() if tokens}

    def _begin(
        self, endpoint: Endpoint, tenant: str, weight: int, model: str, now: float, size: CallSize, lane: Lane
    ) -> None:
        """A call takes a slot."""
        warm_tokens = 0
        if self._warm is not None and size.prefix:
            if not endpoint.is_loaded(model):
                self._warm.forget(endpoint.name, model)
            warm_tokens = self._warm.warm_tokens(endpoint.name, model, size.prefix)
            self._warm.has_read(endpoint.name, model, size.prefix, endpoint.context_tokens(model), endpoint.slots)
        endpoint.take(tenant, weight, model, now, size, lane, warm_tokens)

    def _best(
        self, found: tuple[Sequence[Prospect], Sequence[Prospect]], model: str, queues: Queues
    ) -> tuple[Endpoint, int, float]:
        """Where a call is expected to end first, how many may begin there now, and when it would end."""
        fit, avoided = found
        # One that has failed is better than none.
        chosen = self._choose(views(fit, queues), model) or self._choose(views(avoided, queues), model)
        assert chosen is not None
        return self.endpoints[chosen.name], chosen.free, chosen.expected_seconds

    def _grant(self, *, everyone: bool = False) -> None:
        """Assign free slots to waiting calls; with `everyone`, also fail those that no endpoint can serve any more."""
        now = asyncio.get_running_loop().time()

        @cache
        def ample_of(provider: str, model: str, size: CallSize) -> float:
            return min([one.ample_seconds(model, now, size) for one in self._offering(provider, model)], default=0.0)

        def ample_seconds(one: WaitingCall) -> float:
            return ample_of(one.provider, one.model, one.size)

        tenants_of: dict[tuple[str, str], set[str]] = {}
        for one in self._waiters:
            tenants_of.setdefault((one.provider, one.model), set()).add(one.tenant)
        waiting: dict[str, set[str]] = {name: set() for name in self.endpoints}
        for wanted, tenants in tenants_of.items():
            for name in self.serving(*wanted):
                waiting[name] |= tenants
        for name, tenants in waiting.items():
            self.endpoints[name].awaited_by(tenants, now)
        while self._waiters and (everyone or not self._is_full()):
            free = self._free_for_waiters(now)
            if not free:
                break
            endpoint, calls = next(iter(free.items()))
            chosen = next_of(
                calls, partial(endpoint.claim_of, now=now), now, ample_seconds, batch_gives_way=endpoint.gives_way
            )
            self._begin(endpoint, chosen.tenant, chosen.weight, chosen.model, now, chosen.size, chosen.lane)
            chosen.granted.set_result(endpoint)
            self._waiters.remove(chosen)
        if self._displaces_above is not None and self._waiters:
            self._displace(now, self._displaces_above)

    def _displace(self, now: float, soon_seconds: float) -> None:
        """Interrupt batch calls for interactive ones that would wait for long."""
        waiting = Counter(
            (one.provider, one.model)
            for one in self._waiters
            if one.lane is Lane.INTERACTIVE and not one.granted.done()
        )
        for (provider, model), number in waiting.items():
            serving = [one for one in self._offering(provider, model) if one.objection(now) is None]
            alone = len(serving) <= 1
            if not serving or any(one.room(model, now, alone=alone) > 0 for one in serving):
                continue
            soonest = min([left[0] for one in serving if (left := one.seconds_left(now))], default=0.0)
            while True:
                running = {
                    (one.name, place): call
                    for one in serving
                    for place, call in enumerate(one.calls.displaceable(None if one.busy >= one.slots else model))
                }
                found = displaced(
                    number,
                    sum(one.promised for one in serving),
                    soonest,
                    [Displaceable(*name, now - call.began_at) for name, call in running.items()],
                    soon_seconds=soon_seconds,
                )
                if found is None:
                    break
                self.endpoints[found.endpoint].promised += 1
                running[found.endpoint, found.number].give_up("displaced")

    def _free_for_waiters(self, now: float) -> Mapping[Endpoint, list[_Waiter]]:
        """Endpoints with a free slot, and the calls that are best begun there. Fails those that nobody can serve."""
        free: dict[Endpoint, list[_Waiter]] = {}
        queues = Queues(now)
        found: dict[_Kind, tuple[Sequence[Prospect], Sequence[Prospect]] | ModelNotOffered] = {}
        best: dict[_Kind, tuple[Endpoint, int, float]] = {}
        later: list[_Waiter] = []
        for waiter in tuple(self._waiters):
            if waiter.granted.done():
                continue  # it was cancelled, and has not noticed yet
            kind = waiter.kind
            if kind not in found:
                try:
                    found[kind] = serving = self._prospects(*kind[:3], waiter.size, now, waiter.warm)
                    best[kind] = self._best(serving, waiter.model, queues)
                except ModelNotOffered as error:
                    found[kind] = error
            if isinstance(some := found[kind], ModelNotOffered):
                waiter.granted.set_exception(ModelNotOffered(str(some)))
                self._waiters.remove(waiter)
            elif best[kind][1] > 0:
                free.setdefault(best[kind][0], []).append(waiter)
            elif any(one.free > 0 for group in some for one in group):
                later.append(waiter)
        if free or not later or _is_in_vain(Counter(one.kind for one in later), found, best, queues):
            return free
        # All are best begun at endpoints without a free slot: only until the queue there takes longer than another
        # endpoint does.
        for waiter in sorted(later, key=lambda one: one.rank):
            some = found[waiter.kind]
            assert not isinstance(some, ModelNotOffered)
            endpoint, room, seconds = self._best(some, waiter.model, queues)
            if room > 0:
                free.setdefault(endpoint, []).append(waiter)
            else:
                queues.join(endpoint, seconds - queues.wait(endpoint))
        return free

    def _is_full(self) -> bool:
        return all(endpoint.busy >= endpoint.slots for endpoint in self.endpoints.values())

    def _offering(self, provider: str, model: str) -> Sequence[Endpoint]:
        return [one for one in self.endpoints.values() if one.provider.provider == provider and one.offers(model)]


def _with_warm(found: Sequence[Prospect], model: str, size: CallSize, warm: Mapping[str, int]) -> Sequence[Prospect]:
    """What endpoints are for a call, where those that have its beginning warm need not read it again, unless they have
    much more to do than the others."""
    if not warm:
        return found
    near = within_bound(
        {one.endpoint.name: one.endpoint.busy for one in found},
        {one.endpoint.name: one.endpoint.slots for one in found},
    )
    return [
        one._replace(seconds=max(0.0, one.seconds - one.endpoint.spared_seconds(model, size, warm[one.endpoint.name])))
        if one.endpoint.name in warm and one.endpoint.name in near
        else one
        for one in found
    ]


def _is_in_vain(
    later: Mapping[_Kind, int],
    found: Mapping[_Kind, tuple[Sequence[Prospect], Sequence[Prospect]] | ModelNotOffered],
    best: Mapping[_Kind, tuple[Endpoint, int, float]],
    queues: Queues,
) -> bool:
    """Whether even the last of so many calls of each kind is best begun where they all are: none need be looked at."""
    endpoint = best[next(iter(later))][0]
    work, quickest = 0.0, math.inf
    longest = 0.0
    for kind, number in later.items():
        some = found[kind]
        assert not isinstance(some, ModelNotOffered)
        here = [one.seconds for group in some for one in group if one.endpoint is endpoint]
        if best[kind][0] is not endpoint or not here:
            return False
        work, longest = work + number * here[0], max(longest, here[0])
        quickest = min([quickest, *(one.seconds for group in some for one in group if one.free > 0)])
    return queues.longest_wait(endpoint, work) + longest < quickest
