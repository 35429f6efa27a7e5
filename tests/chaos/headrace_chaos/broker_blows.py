"""The faults of a cluster of three brokers."""

import asyncio
import random
import signal
import time

from headrace_contracts.topics import TOPICS

from headrace_chaos.brokers import NODES, Brokers, Partition, pick, rotated, without_leader
from headrace_chaos.hand import Hand
from headrace_chaos.plan import Act, Blow
from headrace_chaos.platform import Platform

LEADER_BACK = "leader is back"
_SETTLE_SECONDS = 180.0
_MORE_PARTITIONS = 2


class BrokerBlows:
    """Deals them."""

    def __init__(self, platform: Platform, brokers: Brokers, hand: Hand, random_: random.Random) -> None:
        self._platform = platform
        self._brokers = brokers
        self._hand = hand
        self._random = random_

    async def deal(self, act: Act) -> str:
        """Apply a fault; what it did in particular."""
        match act.blow:
            case Blow.BROKER_KILL:
                await self._hand.strike(act.blow, act.targets[0], signal.SIGKILL)
                return f"{act.targets[0]} was killed"
            case Blow.CONTROLLER_KILL:
                target = f"kafka-{self._brokers.controller()}"
                await self._hand.strike(act.blow, target, signal.SIGKILL)
                return f"{target} was killed"
            case Blow.BROKER_SLOW | Blow.BROKER_FROZEN:
                await self._hand.freeze(act.blow, act.targets[0], act.hold)
                return f"{act.targets[0]} sleeps for {act.hold:g} s"
            case Blow.TWO_BROKERS:
                return await self._two_down(act)
            case Blow.LEADERLESS:
                return await self._leaderless(act)
            case Blow.LEADERS_MOVED:
                self._hand.note(act.blow, "kafka")
                plan = rotated(await self._brokers.partitions())
                await self._brokers.reassign(plan)
                await self._brokers.elect_preferred()
                return f"{len(plan)} partitions have other leaders"
            case Blow.REASSIGNED:
                return await self._reassigned(act)
            case Blow.BROKERS_ROLLED:
                for node in NODES:
                    await self._hand.strike(act.blow, f"kafka-{node}", signal.SIGTERM)
                    await self._replicated()
                return "one after another was restarted"
            case Blow.PARTITIONS_ADDED:
                self._hand.note(act.blow, "kafka")
                prefix = self._platform.stack.topic_prefix
                # The journal first: a task whose partition has no journal yet could not be decided.
                names = sorted(
                    (spec.name for spec in TOPICS.values() if spec.copartitioned), key="tasks.journal".__ne__
                )
                for name in names:
                    await self._brokers.add_partitions([prefix + name], _MORE_PARTITIONS)
                return f"{_MORE_PARTITIONS} more partitions of {', '.join(names)}"
        raise ValueError(f"{act.blow} is none of the brokers'")

    async def strike_all(self, blow: Blow, number: signal.Signals) -> None:
        """Send a signal to all of them at once."""
        await asyncio.gather(*(self._hand.strike(blow, f"kafka-{node}", number) for node in NODES))

    async def _two_down(self, act: Act) -> str:
        await asyncio.gather(*(self._hand.hold_down(target, act.hold) for target in act.targets))
        await self._hand.undone()
        # What can be recovered from begins when they may come back.
        self._hand.note(act.blow, "kafka")
        return f"{' and '.join(act.targets)} were down for {act.hold:g} s"

    async def _leaderless(self, act: Act) -> str:
        found = await self._brokers.partitions()
        where = pick(found, self._platform.stack.topic_prefix + act.targets[0], self._random)
        before, only = found[where].all, found[where].leader
        await self._brokers.reassign({where: (only,)})
        self._hand.note(act.blow, "kafka")
        # Not kill -9: a partition whose last replica has ended without a shutdown stays without a leader when that
        # broker is back, until its operator decides that nothing can be missing.
        await self._hand.hold_down(f"kafka-{only}", act.hold, signal.SIGTERM)
        await self._hand.undone()
        self._hand.note_moment(LEADER_BACK, "kafka")
        await self._led(where)
        await self._brokers.reassign({where: before})
        return f"{where[0]}/{where[1]} was on kafka-{only} alone, which was down for {act.hold:g} s"

    async def _reassigned(self, act: Act) -> str:
        found = await self._brokers.partitions()
        names = sorted(found)
        some = {name: found[name] for name in self._random.sample(names, len(names) // 2)}
        self._hand.note(act.blow, "kafka")
        await self._brokers.reassign(without_leader(some))
        await self._brokers.reassign({name: held.all for name, held in some.items()})
        return f"{len(some)} partitions were taken from their leaders, and copied to them anew"

    async def _led(self, where: Partition) -> None:
        async with asyncio.timeout(_SETTLE_SECONDS):
            while (await self._brokers.partitions())[where].leader < 0:  # noqa: ASYNC110 - a cluster
                await asyncio.sleep(0.2)

    async def _replicated(self) -> None:
        """Until every broker runs and has all of its replicas, as an operator who rolls them waits."""
        deadline = time.monotonic() + _SETTLE_SECONDS
        await asyncio.sleep(1.0)
        while (await self._platform.kafka_trouble()) and time.monotonic() < deadline:  # noqa: ASYNC110 - a cluster
            await asyncio.sleep(0.2)
