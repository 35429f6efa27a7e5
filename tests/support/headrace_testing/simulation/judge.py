"""The judge: observes every append and commit, and lists the promises that were broken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from headrace_contracts.events import AttemptRequested, TaskCompleted
from headrace_streams.records import OffsetAndMetadata, Record, TopicPartition

from headrace_testing.router_twin import PREFIX
from headrace_testing.simulation import (
    oracle_admission,
    oracle_bytes,
    oracle_cancellations,
    oracle_floors,
    oracle_lasting,
    oracle_models,
    oracle_money,
    oracle_operators,
    oracle_paid,
    oracle_quota,
    oracle_research,
    oracle_sessions,
    oracle_several_models,
    oracle_sites,
    oracle_tasks,
    oracle_tries,
    oracle_windows,
    oracle_work,
)
from headrace_testing.simulation.clients import SECRET
from headrace_testing.simulation.cluster import Seen
from headrace_testing.simulation.models import Call
from headrace_testing.simulation.record import Place, Topics

if TYPE_CHECKING:
    from headrace_testing.simulation.processes import SimulatedProcess
    from headrace_testing.simulation.world import SimulatedWorld

LEDGER_GROUP = PREFIX + "cost-accountant.ledger"


class Judge:
    """Observes every append, every commit, and every start and end of a handler."""

    def __init__(self, world: SimulatedWorld) -> None:
        self.topics = Topics(world.kit.codec, lambda topic: world.cluster.describe_topics([topic])[topic].topic_id)
        self.world = world
        self.poison: set[Place] = set()
        self.lost_poison: set[Place] = set()
        """Those that went with their log, perhaps unread."""
        self.refused: set[str] = set()
        """Tasks that admission must refuse."""
        self.largest_work = 0
        """Bytes of the largest record for workers."""
        self.sights: list[oracle_sites.Sight] = []
        """What routers knew of sites, in order."""
        self._found: list[str] = []
        self._checked: dict[TopicPartition, int] = {}

    @property
    def accepted(self) -> int:
        """Number of tasks in the log."""
        return len(self.topics.submitted)

    def violated(self, what: str) -> None:
        """A promise was broken."""
        self._found.append(what)
        self.world.trace.violation(what)

    def poisoned(self, name: TopicPartition, offset: int, *, decodable: bool = False) -> None:
        """The record at this place belongs to the dead letters. One that can be decoded is announced before it is
        written."""
        place = (name.topic.removeprefix(PREFIX), name.partition, offset)
        self.poison.add(place)
        if decodable:
            self.topics.inadmissible.add(place)

    def retire(self, topic: str, partition: int, offset: int) -> None:
        """The records of a partition from this offset on are gone, and others will have their places."""
        self.world.cluster.history.retire(PREFIX + topic, partition, offset)
        moved = self.topics.retire(topic, partition, offset)
        # What nobody has read of them is lost.
        self.lost_poison |= {moved(place) for place in self.poison if moved(place) != place}
        self.poison = {place for place in self.poison if moved(place) == place}

    # During the run

    def appended(self, seen: Seen) -> None:
        try:
            self._appended(seen)
        except Exception as error:  # noqa: BLE001 - the writer must not take the judge's own defect for the cluster's answer
            self.world.defect(f"the judge failed with {type(error).__name__}: {error}", error)

    def _appended(self, seen: Seen) -> None:
        if seen.record.topic.startswith(PREFIX + "work."):
            self.largest_work = max(self.largest_work, len(seen.record.value or b""))
        event = self.topics.take(seen)
        topic = self.topics.place(seen)[0]
        if seen.client not in ("stranger", "clients") and not topic.endswith(".dlq"):
            oracle_admission.check_copied(self, seen, topic, event)
        if topic.startswith("work.cloud") and SECRET.encode() in (seen.record.value or b""):
            self.violated(f"sensitive content on {topic}: {seen.event_id}")
        if isinstance(event, AttemptRequested | TaskCompleted):
            oracle_tasks.check_commanded(self, seen, topic, event)
        oracle_cancellations.check(self, seen, topic, event)
        if isinstance(event, AttemptRequested) and (commanded := self.topics.commands.get((topic, seen.event_id))):
            oracle_floors.check_dispatched(self, event, commanded[0])
        if isinstance(event, TaskCompleted):
            oracle_tasks.check_once(self, event.task_id)

    def committed(self, group: str, client: str, progress: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
        for name, reached in progress.items():
            if group == PREFIX + "router":
                oracle_tasks.check_router_commit(self, client, name, reached)
            elif group == LEDGER_GROUP:
                oracle_money.check_commit(self, client, name, reached)
            else:
                oracle_work.check_commit(self, client, name, reached, self._checked)

    def begins(self, process: SimulatedProcess, group: str, record: Record) -> None:
        """A worker's handler starts with a record."""
        oracle_work.check_begin(self, process, group, record)
        oracle_bytes.check_begin(self, process)

    def ends(self, process: SimulatedProcess, record: Record, calls: Sequence[Call]) -> None:
        """A worker's handler has returned after these model calls: the record may count as finished now."""
        oracle_work.check_end(self, process, record, calls)
        oracle_models.check_usage(self, process, record, calls)
        oracle_sites.check_end(self, process, record, calls)

    # After the run

    def unsettled(self) -> Sequence[str]:
        """What is not finished yet."""
        topics = self.topics
        open_tasks = [
            task_id
            for task_id in topics.submitted
            if task_id not in topics.completed and not topics.may_be_lost(task_id)
        ]
        found = [f"task {task_id} has not ended" for task_id in open_tasks]
        return found or [
            *oracle_tasks.unsettled(self), *oracle_cancellations.unsettled(self), *oracle_work.unsettled(self),
            *oracle_money.unsettled(self),
        ]  # fmt: skip

    def verdict(self) -> Sequence[str]:
        """All broken promises."""
        oracles = (
            oracle_tasks,
            oracle_work,
            oracle_money,
            oracle_paid,
            oracle_models,
            oracle_admission,
            oracle_cancellations,
            oracle_lasting,
            oracle_floors,
            oracle_quota,
            oracle_research,
            oracle_several_models,
            oracle_bytes,
            oracle_tries,
            oracle_windows,
            oracle_sites,
            oracle_operators,
            oracle_sessions,
        )
        for check in [oracle.verdict for oracle in oracles]:
            for what in check(self):
                self.violated(what)
        return self._found
