"""Applies the faults of a plan to the parts of a running platform."""

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from headrace_chaos.broker_blows import BrokerBlows
from headrace_chaos.hand import Hand
from headrace_chaos.plan import OF_BROKERS, Act, Blow
from headrace_chaos.platform import Platform
from headrace_chaos.recovery import Death

_PARTS = {
    Blow.KAFKA_RESTART: ("kafka", signal.SIGTERM),
    Blow.KAFKA_KILL: ("kafka", signal.SIGKILL),
    Blow.POSTGRES_RESTART: ("postgres", signal.SIGINT),
    Blow.POSTGRES_KILL: ("postgres", signal.SIGKILL),
}
_WELL_SECONDS = 120.0
_NOTICED_SECONDS = 0.5
"""By then a supervisor has noticed that one of its processes has ended."""
_FIRST_SECONDS = 3.0
_REGISTRY_PAUSE = 0.3


class Killer:
    """Executes a plan; what it did is in `deaths` and `dealt`."""

    def __init__(self, platform: Platform, say: Callable[[str], None], seed: int) -> None:
        self._platform = platform
        self._say = say
        self._hand = Hand(platform)
        self._brokers = (
            BrokerBlows(platform, platform.brokers, self._hand, random.Random(f"brokers of {seed}"))
            if platform.brokers
            else None
        )

    @property
    def deaths(self) -> Sequence[Death]:
        """The moments from which recovery is measured."""
        return self._hand.deaths

    @property
    def dealt(self) -> Counter[Blow]:
        """How often each fault was applied."""
        return self._hand.dealt

    @property
    def skipped(self) -> Sequence[str]:
        """Faults that could not be applied."""
        return self._hand.skipped

    async def run(self, acts: Iterable[Act], until: float | None) -> None:
        """Apply the faults; returns when none are left, or before one that would end after `until` (monotonic)."""
        await asyncio.sleep(_FIRST_SECONDS)
        for act in acts:
            if until is not None and time.monotonic() + act.hold + act.pause > until:
                return
            self._say(f"  {act.blow.value} {' '.join(act.targets)}")
            await self._deal(act)
            began = time.monotonic()
            await self._hand.undone()
            await self._until_well()
            self._say(f"    healthy again after {time.monotonic() - began:.1f} s")
            self._hand.trouble = False
            await asyncio.sleep(act.pause)

    def wake_all(self) -> None:
        """Thaw everything that is frozen, also if the run was interrupted."""
        self._hand.wake_all()
        if self._platform.disk.mounted:
            self._platform.disk.free()

    async def _deal(self, act: Act) -> None:
        hand = self._hand
        match act.blow:
            case Blow.KILL | Blow.STOP | Blow.ALL:
                number = signal.SIGTERM if act.blow is Blow.STOP else signal.SIGKILL
                await asyncio.gather(*(hand.strike(act.blow, target, number) for target in act.targets))
            case Blow.ZOMBIE:
                for target in act.targets:
                    await hand.freeze(act.blow, target, act.hold)
            case Blow.REGISTRY_GONE:
                hand.trouble = True
                await hand.freeze(act.blow, "registry", act.hold)
                await asyncio.sleep(_REGISTRY_PAUSE)
                for target in act.targets:
                    await hand.strike(Blow.KILL, target, signal.SIGKILL)
            case Blow.DISK_FULL:
                hand.trouble = True
                hand.note(act.blow, "kafka")
                self._platform.disk.fill()
                hand.later(act.hold, self._platform.disk.free)
            case blow if blow in OF_BROKERS:
                hand.trouble = True
                assert self._brokers is not None
                self._say(f"    {await self._brokers.deal(act)}")
            case blow:
                hand.trouble = True
                part, number = _PARTS[blow]
                if part == "kafka" and self._brokers is not None:
                    await self._brokers.strike_all(blow, number)
                else:
                    await hand.strike(blow, part, number)

    async def _until_well(self) -> None:
        await asyncio.sleep(_NOTICED_SECONDS)
        deadline = time.monotonic() + _WELL_SECONDS
        while (trouble := await self._platform.trouble()) and time.monotonic() < deadline:  # noqa: ASYNC110 - other processes
            await asyncio.sleep(0.2)
        if trouble:
            self._say(f"    not healthy after {_WELL_SECONDS:.0f} s: {trouble}")
