"""Faults at scheduled times: restarts, rebalances, clock jumps, compaction, retention, outages."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from headrace_contracts import topics
from headrace_contracts.errors import Origin, SchemaNotCached, UnreadableValue
from headrace_contracts.events import EntryKind, JournalEntry
from headrace_contracts.topics import TopicSpec
from headrace_streams.errors import TransientError
from headrace_streams.memory import HANGS, Ailment
from headrace_streams.records import TopicPartition

from headrace_testing.router_twin import PREFIX
from headrace_testing.simulation.plan import Fault
from headrace_testing.simulation.processes import RouterBody, SimulatedProcess, site_of

if TYPE_CHECKING:
    from headrace_testing.simulation.world import SimulatedWorld

_STABLE_SECONDS = 8.0
"""An owner that has taken over this long ago has written again everything that compaction could remove."""
PARTITIONS_AT_FIRST = 2
_READ_BY_ENGINES = (
    topics.WORK_LOCAL_INTERACTIVE,
    topics.WORK_LOCAL_BATCH,
    topics.WORK_CLOUD_INTERACTIVE,
    topics.WORK_CLOUD_BATCH,
    topics.USAGE_RECORDED,
)
_CONSUMED_BY: Mapping[TopicSpec, str] = {
    topics.TASKS_SUBMITTED: "router",
    topics.TASKS_CANCELLED: "router",
    topics.ATTEMPTS_FINISHED: "router",
    topics.ATTEMPTS_FINISHED_CLOUD: "router",
    topics.WORK_LOCAL_INTERACTIVE: "local-worker",
    topics.WORK_LOCAL_BATCH: "local-worker",
    topics.WORK_CLOUD_INTERACTIVE: "cloud-worker",
    topics.WORK_CLOUD_BATCH: "cloud-worker",
}


class Chaos:
    """Schedules the faults of a plan that do not occur at an I/O boundary."""

    def __init__(self, world: SimulatedWorld) -> None:
        self._world = world
        self._rng = world.rng
        self._sites = random.Random(f"{world.plan.seed} sites chaos")
        self._lasting = random.Random(f"{world.plan.seed} chaos")

    def begin(self) -> None:
        kinds: tuple[tuple[Fault, Callable[[], None]], ...] = (
            (Fault.RESTART, self._restart),
            (Fault.EXPEL, self._expel),
            (Fault.CLOCK, self._jump),
            (Fault.COMPACTION, self._compact),
            (Fault.RETENTION, self._retain),
            (Fault.DATABASE_AWAY, self._database_away),
            (Fault.NODE_DOWN, self._node_down),
        )
        for fault, happen in kinds:
            if self._world.plan.rate(fault):
                for _ in range(self._rng.randint(1, 4)):
                    self._world.loop.outside(self._rng.uniform(0.5, self._world.plan.fault_seconds), self._do, happen)
        lasting: tuple[tuple[Fault, Callable[[], None]], ...] = (
            (Fault.PARTITION_SICK, self._sicken),
            (Fault.PARTITIONS_ADDED, self._add_partitions),
            (Fault.TRANSACTION_OPEN, self._hold),
        )
        for fault, happen in lasting:
            if self._world.plan.rate(fault):
                for _ in range(self._lasting.randint(1, 3)):
                    at = self._lasting.uniform(0.0, self._world.plan.fault_seconds)
                    self._world.loop.outside(at, self._do, happen)

        if self._world.plan.rate(Fault.SITE_GONE):
            for _ in range(self._sites.randint(2, 5)):
                at = self._sites.uniform(0.0, self._world.plan.fault_seconds)
                self._world.loop.outside(at, self._do, self._leave)

    def _do(self, happen: Callable[[], None]) -> None:
        if not self._world.calm:
            happen()

    def _note(self, fault: Fault, about: str) -> None:
        self._world.trace.fault(fault.value, about)

    def _any_running(self) -> SimulatedProcess | None:
        running = [process for process in self._world.processes if process.running]
        return self._rng.choice(running) if running else None

    def _restart(self) -> None:
        process = self._any_running()
        if process is not None:
            self._note(Fault.RESTART, process.name)
            process.stop()

    def _expel(self) -> None:
        cluster = self._world.cluster
        groups = [name for name in sorted(cluster.groups()) if cluster.group(name).members]
        if not groups:
            return
        name = self._rng.choice(groups)
        member = self._rng.choice(sorted(cluster.group(name).members))
        self._note(Fault.EXPEL, f"{cluster.client_of(name, member)} from {name}")
        cluster.group(name).expel(self._world.loop.time(), member)
        cluster.schedule(name)

    def _jump(self) -> None:
        process = self._rng.choice(self._world.processes)
        process.skew_ms += self._rng.choice((-20_000, -3_000, 3_000, 20_000))
        self._note(Fault.CLOCK, f"{process.name} is {process.skew_ms} ms off")

    def _compact(self) -> None:
        """Compact the part of the journal that an established owner no longer needs.

        In production the compaction lag is an hour, longer than a partition is without an owner.
        """
        cluster, topic = self._world.cluster, PREFIX + topics.TASKS_JOURNAL.name
        for number in range(self._world.partitions):
            epoch_start = self._stable_epoch_start(topic, number)
            if epoch_start is not None and self._world.trouble.trouble is not None:
                # The trouble may keep commands of earlier entries waiting: for minutes, not for the compaction lag.
                counted = self._world.judge.topics.journal[number].counted
                published = [entry.published_offset for _, entry in counted if entry.published_offset is not None]
                epoch_start = min(epoch_start, max(published, default=0))
            if epoch_start is not None and (
                removed := cluster.compact_below(TopicPartition(topic, number), epoch_start)
            ):
                self._note(Fault.COMPACTION, f"{topic}[{number}] below {epoch_start}: {removed} records")

    def _stable_epoch_start(self, topic: str, number: int) -> int | None:
        world = self._world
        seen = world.cluster.history.partition(topic, number)
        for each in reversed(seen):
            record = each.record
            try:
                entry = world.kit.codec.decode(JournalEntry, record.value, Origin(topic, number, record.offset))
            except (UnreadableValue, SchemaNotCached):
                continue
            if entry.kind is not EntryKind.EPOCH_START:
                continue
            later = [other for other in seen[record.offset + 1 :] if other.client == each.client]
            owner = next((process for process in world.processes if process.name == each.client), None)
            stable = (
                owner is not None
                and _routes(owner, number)
                and not owner.fate.frozen
                and world.loop.time() - each.at > _STABLE_SECONDS
                and any(world.loop.time() - other.at > _STABLE_SECONDS / 2 for other in later)
            )
            return record.offset if stable else None
        return None

    def _retain(self) -> None:
        """Delete records that were consumed long ago."""
        cluster = self._world.cluster
        if self._world.trouble.changes_logs:
            # Retention goes by time, and what was committed may be a position of the former log.
            return
        of_sites = {
            spec: f"local-worker.{spec.site}" for spec in topics.site_topics(filter(None, self._world.plan.sites))
        }
        for spec, group in {**_CONSUMED_BY, **of_sites}.items():
            for number in range(self._world.partitions):
                name = TopicPartition(PREFIX + spec.name, number)
                reached = cluster.group(PREFIX + group).committed_offsets.get(name)
                if reached is not None and reached.next_offset > cluster.partition(name).start:
                    self._note(Fault.RETENTION, f"{name} below {reached.next_offset}")
                    cluster.delete_before(name, reached.next_offset)

    def expire_journal(self, older_than_seconds: float) -> None:
        """Apply retention to the journal as if the platform had been idle for longer than that."""
        cluster, topic = self._world.cluster, PREFIX + topics.TASKS_JOURNAL.name
        oldest = self._world.loop.time() - older_than_seconds
        for number in range(self._world.partitions):
            seen = cluster.history.partition(topic, number)
            first = next((each.record.offset for each in seen if each.at >= oldest), None)
            if first is not None:
                self._note(Fault.RETENTION, f"{topic}[{number}] below {first}")
                cluster.delete_before(TopicPartition(topic, number), first)

    def _database_away(self) -> None:
        database = self._world.database
        self._note(Fault.DATABASE_AWAY, "")
        database.away = True
        self._world.loop.outside(self._rng.choice((0.3, 3.0, 12.0)), setattr, database, "away", False)

    def _work_partition(self) -> TopicPartition:
        """Of a topic whose reader is an engine or a projection."""
        spec = self._lasting.choice(_READ_BY_ENGINES)
        return TopicPartition(PREFIX + spec.name, self._lasting.randrange(PARTITIONS_AT_FIRST))

    def _sicken(self) -> None:
        name, seconds = self._work_partition(), self._lasting.choice((1.0, 6.0, 25.0))
        kind = self._lasting.choice(("reads", "bounds", "both", "bounds fail"))
        self._note(Fault.PARTITION_SICK, f"{name}: {kind} for {seconds} s")
        bounds = Ailment(TransientError("no leader (simulated)"), 0.1) if kind == "bounds fail" else HANGS
        self._world.cluster.sicken(
            name,
            reads=HANGS if kind in ("reads", "both") else None,
            bounds=None if kind == "reads" else bounds,
        )
        self._world.loop.outside(seconds, self._world.cluster.heal, name)

    def _hold(self) -> None:
        cluster, name = self._world.cluster, self._work_partition()
        seconds = self._lasting.choice((0.5, 5.0, 25.0))
        at = cluster.partition(name).end
        self._note(Fault.TRANSACTION_OPEN, f"{name} from {at} for {seconds} s")
        cluster.hold_stable_offset(name, at)
        self._world.loop.outside(seconds, cluster.hold_stable_offset, name, None)

    def _add_partitions(self) -> None:
        cluster, spec = self._world.cluster, self._lasting.choice(_READ_BY_ENGINES)
        topic = PREFIX + spec.name
        count = cluster.partition_counts([topic])[topic] + self._lasting.randint(1, 2)
        self._note(Fault.PARTITIONS_ADDED, f"{topic}: {count}")
        cluster.add_partitions(topic, count)

    def _node_down(self) -> None:
        node = self._rng.choice(("node-1", "node-2", "groq", "anthropic"))
        if self._world.plan.sites:
            node = self._sites.choice((node, "a-1", "a-2", "b-1"))
        seconds = self._rng.choice((1.0, 8.0, 30.0))
        self._note(Fault.NODE_DOWN, f"{node} for {seconds} s")
        self._world.models.down[node] = self._world.loop.time() + seconds

    def _leave(self) -> None:
        seen = self._world.judge.topics
        busy = {request.site for place, (_, request) in seen.work.items()
                if place[0].startswith("work.local.") and not seen.is_done(place)}  # fmt: skip
        site = self._sites.choice(sorted(busy) or self._world.plan.sites)
        seconds = self._sites.choice((6.0, 20.0, 60.0, 60.0))
        self._note(Fault.SITE_GONE, f"{site or 'no site'} for {seconds} s")
        for process in self._world.processes:
            if process.name.startswith("local-") and site_of(self._world, process) == site:
                process.stay_away(seconds)


def _routes(owner: SimulatedProcess, partition: int) -> bool:
    """Whether a router has taken a partition over. One that failed after its epoch start has written nothing again."""
    body = owner.body
    return isinstance(body, RouterBody) and partition in body.service.partitions
