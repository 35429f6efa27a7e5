"""One node or provider of a worker: its slots, what it offers, how long its calls take, and who had how much of it."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

from headrace_contracts.events import Lane, PlacementStatus

from headrace_models.ports import ChatResult, EmbedResult, Provider, ProviderStatus
from headrace_models.worker.avoidance import Avoided
from headrace_models.worker.breaker import CLOSED, Breaker
from headrace_models.worker.estimates import (
    UNMEASURED,
    UNSIZED,
    CallSize,
    ModelSpeed,
    OutputLengths,
    sane,
    seconds_left,
)
from headrace_models.worker.fair_shares import FairShares
from headrace_models.worker.observations import Observations
from headrace_models.worker.outliers import CLEAN, CallRecord, after_end
from headrace_models.worker.own_delay import OwnDelay
from headrace_models.worker.parallel_limit import UNLIMITED, ParallelLimit, after_answer, after_refusal, waited_inside
from headrace_models.worker.recent_times import Factor, RecentTimes
from headrace_models.worker.slow_start import WarmingUp, at_first
from headrace_models.worker.watched_call import WatchedCalls

_log = logging.getLogger(__name__)

NOT_LOOKED_AT: Final = ProviderStatus(False, "has not been probed yet")
_UNKNOWN_LENGTHS: Final = OutputLengths()
_MOST_SECONDS: Final = 86_400.0
_QUEUED_SHARE: Final = 0.25
"""A call that waited for so much of its time for others, at its endpoint, tells nothing of how fast prompts are
read."""
_WEIGHT_OF_NEWEST: Final = 0.3
"""Weight of the newest value in the reported tokens per second: the last few calls dominate."""


@dataclass(frozen=True, slots=True)
class EndpointView:
    """Snapshot of one endpoint, for choosing among several for one call.

    Attributes:
        busy: Calls that it runs, of any model.
        free: Calls of this model that may be begun there now.
        expected_seconds: Until the call would end there: waiting for a slot, loading the model, and the call itself.
    """

    name: str
    provider: str
    models: frozenset[str]
    slots: int
    busy: int
    free: int
    expected_seconds: float


@dataclass(slots=True, eq=False)
class _RunningCall:
    """A call that has a slot.

    Attributes:
        cold: Whether the model had to be loaded when it began.
        sent: Calls of the model at its start, itself included.
        delayed: `OwnDelay.seconds` at its start.
        warm_tokens: Tokens of its prompt that the endpoint need not read again, about.
    """

    model: str
    size: CallSize
    lane: Lane
    began: float
    load_seconds: float
    cold: bool
    sent: int
    delayed: float
    warm_tokens: int = 0


class Endpoint:
    """One node or provider, and its state.

    Args:
        slots: Number of concurrent calls.
        hardware: Labels for the fleet status.
        parallel: Most concurrent calls of single models, by name.
        slots_told: Whether its operator or its agent has told the slots; else they are a default.
        adapts: Whether it is learned how many calls it really runs at once (`parallel_limit`). Not of a cloud provider:
            what it takes is a matter of contract, and its refusals say when it takes more.
    """

    def __init__(
        self,
        provider: Provider,
        slots: int,
        hardware: Mapping[str, str] | None = None,
        *,
        parallel: Mapping[str, int] | None = None,
        slots_told: bool = False,
        adapts: bool = True,
    ) -> None:
        self.provider = provider
        self._adapts = adapts
        self._slots_told = slots_told
        # Of names without a tag, the one that Ollama adds is meant too.
        self._parallel = {
            name: most for text, most in (parallel or {}).items() for name in {text, text.removesuffix(":latest")}
        }
        self._parallel |= {f"{name}:latest": most for name, most in self._parallel.items() if ":" not in name}
        self.slots = slots
        self.hardware = dict(hardware or {})
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
        self.speeds: dict[str, ModelSpeed] = {}
        self.lengths: Mapping[str, OutputLengths] = {}
        """Of models' answers, over all endpoints."""
        self.own_delay: OwnDelay | None = None
        """Of the worker that calls it; None counts as none."""
        self.recent: dict[str, RecentTimes] = {}
        self.tokens_per_second: float | None = None
        self.observed: dict[str, Observations] = {}
        """How its answers came, by model."""
        self._shares = FairShares()
        self.avoided: dict[str, Avoided] = {}
        """What is held against it, by model."""
        self.records: dict[str, CallRecord] = {}
        """How its calls ended, by model."""
        self.calls = WatchedCalls()
        """The calls that it runs."""
        self.first_tokens: dict[str, RecentTimes] = {}
        self.withheld: dict[str, str] = {}
        """Why it gets no new calls whatever its health, by who decided so."""
        self.busy = 0
        """Calls that have a slot."""
        self.promised = 0
        """Slots of batch calls that were interrupted for interactive ones, until these have taken them."""
        # By the identity of their sizes, which a caller may use for several.
        self._running: dict[int, list[_RunningCall]] = {}
        self._of_model: Counter[str] = Counter()
        self._batch = 0
        self._last_lane: Lane | None = None
        self._limits: dict[str, ParallelLimit] = {}
        self._warming_up: dict[str, WarmingUp] = {}

    @property
    def name(self) -> str:
        return self.provider.node

    @property
    def gives_way(self) -> bool:
        """Whether a batch call had its slots last, or has all of them, or was interrupted for an interactive one:
        interactive calls are next."""
        return self.promised > 0 or (self._batch == self.busy if self.busy else self._last_lane is Lane.BATCH)

    def least_seconds(self, model: str, now: float, size: CallSize = UNSIZED) -> float:
        """A call with less time than this before its deadline is in vain: see `RecentTimes.least`."""
        recent = self.recent.get(model)
        return 0.0 if recent is None else recent.least(now, self._times_as_long(model, size))

    def ample_seconds(self, model: str, now: float, size: CallSize = UNSIZED) -> float:
        """A call with this much time will almost certainly be in time."""
        recent = self.recent.get(model)
        return 0.0 if recent is None else recent.ample(now, self._times_as_long(model, size))

    def offers(self, model: str) -> bool:
        """Whether it lists a model. Ollama reads a name without a tag as its `latest`."""
        return model in self._models or f"{model}:latest" in self._models

    def run_seconds(self, model: str, size: CallSize) -> float:
        """What a call usually takes once it has a slot, with the model in memory."""
        return self._speed(model).seconds(size, self._lengths(model).usual(size.max_output_tokens))

    def spared_seconds(self, model: str, size: CallSize, warm_tokens: int) -> float:
        """What a call takes less because so many tokens of its prompt need not be read again."""
        if not warm_tokens or not self.is_loaded(model):
            return 0.0
        speed, left = self._speed(model), size.without(warm_tokens)
        return max(0.0, speed.prompt_seconds(size.prompt_tokens) - speed.prompt_seconds(left.prompt_tokens))

    def context_tokens(self, model: str) -> int | None:
        """The length of a model's context there, in tokens; None if it is not known."""
        names = {model, f"{model}:latest"}
        info = next((one for one in self.status.models if one.name in names), None)
        return None if info is None else info.loaded_context_tokens or info.context_tokens

    def load_seconds(self, model: str) -> float:
        """What loading a model adds to a call that begins now."""
        # Another call has it loaded already.
        if self.is_loaded(model) or self._of_model[model]:
            return 0.0
        return self._speed(model).load_seconds

    def seconds_left(self, now: float) -> list[float]:
        """What is expected to be left of each call that it runs; the next slot is free after the shortest."""
        left = [self._left(one, now) for calls in self._running.values() for one in calls]
        left.sort()
        # Slots may have been taken away from it.
        return left[max(0, len(left) - self.slots) :]

    def left_of(self, size: CallSize, now: float) -> float | None:
        """What is expected to be left of the call with this very size; None if it runs none."""
        call = self._call(size)
        return None if call is None else self._left(call, now)

    def room(self, model: str, now: float, *, alone: bool) -> int:
        """How many calls of a model may begin now.

        Args:
            alone: Whether no other endpoint offers it.
        """
        mine = self._of_model[model]
        most = self._limits.get(model, UNLIMITED).at(now)
        stated = self._parallel.get(model)
        if stated is not None:
            most = min(most, stated)
        if not alone:
            warming_up = self._warming_up.get(model)
            told = self.slots if stated is None and self._slots_told else stated
            most = min(most, at_first(told) if warming_up is None else warming_up.allowed(self.slots, now, told))
        return max(0, int(min(most - mine, self.slots - self.busy)))

    def claim_of(self, tenant: str, now: float) -> float:
        """How much of it a tenant has had for its weight: see `FairShares`."""
        return self._shares.claim(tenant, now)

    def is_avoided(self, model: str, now: float) -> bool:
        """Whether it failed with a model a short time ago, or stands out: others go first."""
        held = self.avoided.get(model)
        return (held is not None and now < held.until) or now < self.records.get(model, CLEAN).ejected_until

    def take(
        self, tenant: str, weight: int, model: str, now: float, size: CallSize = UNSIZED,
        lane: Lane = Lane.INTERACTIVE, warm_tokens: int = 0,
    ) -> None:  # fmt: skip
        """A call takes a slot. `warm_tokens` of its prompt need not be read again, about."""
        load = self.load_seconds(model)
        self.busy += 1
        self._of_model[model] += 1
        self._batch += lane is Lane.BATCH
        # If a batch call is next, no interactive one waits any more.
        self.promised = max(0, self.promised - 1) if lane is Lane.INTERACTIVE else 0
        call = _RunningCall(
            model,
            size,
            lane,
            now,
            load,
            not self.is_loaded(model),
            self._of_model[model],
            self._delayed(now),
            warm_tokens,
        )
        self._running.setdefault(id(size), []).append(call)
        self._warming_up.setdefault(model, WarmingUp(now))
        self.idle.clear()
        self._shares.began(tenant, weight, now, load + self.run_seconds(model, size.without(warm_tokens)))

    def give_back(self, tenant: str, now: float, size: CallSize = UNSIZED) -> None:
        """A call returns its slot."""
        calls = self._running.get(id(size)) or next(iter(self._running.values()))
        ended = calls.pop(0)
        if not calls:
            del self._running[id(ended.size)]
        self.busy -= 1
        self._batch -= ended.lane is Lane.BATCH
        self._of_model[ended.model] -= 1
        if not self._of_model[ended.model]:
            del self._of_model[ended.model]
        self._last_lane = ended.lane
        if not self.busy:
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
        if status.healthy and not self.status.healthy:
            # It joins, or comes back.
            self._warming_up.clear()
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

    def view(self, free: int = 0, expected_seconds: float = 0.0) -> EndpointView:
        """As `EndpointView`."""
        return EndpointView(
            self.name, self.provider.provider, self._models, self.slots, self.busy, free, expected_seconds
        )

    def observe(self, model: str, result: ChatResult | EmbedResult, now: float, size: CallSize = UNSIZED) -> None:
        """A call, which still has its slot, has ended with an answer."""
        chat = result if isinstance(result, ChatResult) else None
        total = sane(result.total_ms / 1000, _MOST_SECONDS)
        first = sane((result.total_ms if chat is None else chat.first_token_ms) / 1000, total)
        output = 0 if chat is None else chat.usage.output_tokens
        call = self._call(size)
        size = size if call is None else size.without(call.warm_tokens)
        # Of calls that begin together, the first ones share the endpoint with those after them.
        cold, sent = (False, 1) if call is None else (call.cold, max(call.sent, self._of_model[model]))
        own_delay = 0.0 if call is None else self._delayed(now) - call.delayed
        queued = False
        if (speed := self.speeds.get(model)) is None:
            speed = self.speeds[model] = ModelSpeed()
        elif chat is not None and self._adapts and not cold:
            waited = waited_inside(first, speed.prompt_seconds(size.prompt_tokens) + own_delay, total)
            queued = sent > 1 and waited > _QUEUED_SHARE
            self._limit(model, after_answer(self._limits.get(model, UNLIMITED), sent, waited, now))
        speed.observe(now, size, output, first, total, cold=cold, queued=queued)
        self._loaded |= {name for name in (model, f"{model}:latest") if name in self._models}
        if (warming_up := self._warming_up.get(model)) is not None:
            self._warming_up[model] = WarmingUp(warming_up.since, warming_up.answers + 1)
        if chat is None:
            return
        self.recent.setdefault(model, RecentTimes()).observe(now, total, size)
        self.first_tokens.setdefault(model, RecentTimes()).observe(now, first)
        writing = total - first
        self.observed.setdefault(model, Observations()).observe(now, first, writing, output)
        if output > 1 and writing > 0:
            newest = output / writing
            before = self.tokens_per_second
            self.tokens_per_second = newest if before is None else before + _WEIGHT_OF_NEWEST * (newest - before)

    def refused(self, model: str, now: float, size: CallSize = UNSIZED) -> None:
        """It had no room for a call, which still has its slot."""
        if not self._adapts:
            return
        call = self._call(size)
        sent = self.busy if call is None else call.sent
        self._limit(model, after_refusal(self._limits.get(model, UNLIMITED), sent, now))

    def cut_off(self, model: str, seconds: float, now: float, size: CallSize = UNSIZED) -> None:
        """A call took too long, and was ended after `seconds`."""
        self.recent.setdefault(model, RecentTimes()).cut_off(now, seconds, size)

    def ended(self, model: str, *, failed: bool) -> None:
        """A call has ended; `failed` if it failed by the fault of this endpoint."""
        self.records[model] = after_end(self.records.get(model, CLEAN), failed=failed)

    def _limit(self, model: str, limit: ParallelLimit) -> None:
        if limit.most != self._limits.get(model, UNLIMITED).most and limit.most < self.slots:
            _log.info(
                "%s is sent %d calls of %s at once, of %d slots: it does not run more", self.name, limit.most, model,
                self.slots,
            )  # fmt: skip
        self._limits[model] = limit

    def _call(self, size: CallSize) -> _RunningCall | None:
        calls = self._running.get(id(size))
        return calls[0] if calls else None

    def is_loaded(self, model: str) -> bool:
        """Whether a model is in memory there, as far as is known."""
        names = {model, f"{model}:latest"}
        info = next((one for one in self.status.models if one.name in names), None)
        # Providers that tell no size of it have it in memory all the time.
        return info is None or info.size_bytes is None or not names.isdisjoint(self._loaded)

    def _delayed(self, now: float) -> float:
        return 0.0 if self.own_delay is None else self.own_delay.seconds(now)

    def _speed(self, model: str) -> ModelSpeed:
        return self.speeds.get(model, UNMEASURED)

    def _lengths(self, model: str) -> OutputLengths:
        return self.lengths.get(model, _UNKNOWN_LENGTHS)

    def _left(self, one: _RunningCall, now: float) -> float:
        since = max(0.0, now - one.began)
        return seconds_left(self._speed(one.model), self._lengths(one.model), one.size, one.load_seconds, since)

    def _times_as_long(self, model: str, size: CallSize) -> Factor:
        asked = self.run_seconds(model, size)

        def factor(past: CallSize) -> float:
            if past == size or UNSIZED in (past, size):
                return 1.0
            before = self.run_seconds(model, past)
            return asked / before if before > 0.0 and asked > 0.0 else 1.0

        return factor
