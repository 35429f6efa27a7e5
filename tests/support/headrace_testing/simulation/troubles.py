"""The kinds of trouble that lasts: what is done to the platform, what may wait for it, and how it is mended."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Final

from headrace_contracts import topics
from headrace_contracts.events import EntryKind, JournalEntry, Place, TaskSubmitted
from headrace_streams.errors import AppendUncertain, RecordRefused, TransientError
from headrace_streams.memory import HANGS, Ailment
from headrace_streams.partitioning import partition_of
from headrace_streams.publishing import Publication
from headrace_streams.records import ProducerRecord, TopicPartition

from headrace_testing.router_twin import PREFIX
from headrace_testing.simulation.chaos import PARTITIONS_AT_FIRST
from headrace_testing.simulation.network import PATIENCE_SECONDS
from headrace_testing.simulation.plan import Fault

if TYPE_CHECKING:
    from headrace_testing.simulation.world import SimulatedWorld

LONG_QUESTION: Final = "long " * 700
"""Padding of questions that do not fit, as an attempt or in an answer, into a topic with too small a limit."""
_SMALL_LIMIT: Final = 2_500
"""Bytes. Every record without the padding fits."""
_TINY_LIMIT: Final = 420
"""Bytes. Audit records fit only when shortened, and not all of them then."""


def of_some_worker(rng: random.Random, topic: str) -> str:
    """The topic; in place of that of local outcomes, sometimes the other one with outcomes.

    Asks a copy of the generator: all else that is drawn stays what it was before there were two.
    """
    if topic != topics.ATTEMPTS_FINISHED.name:
        return topic
    copied = random.Random()
    copied.setstate(rng.getstate())
    return copied.choice((topics.ATTEMPTS_FINISHED.name, topics.ATTEMPTS_FINISHED_CLOUD.name))


class Trouble:
    """One trouble of one seed. It begins among the other faults, or after them, and lasts until it is mended.

    Attributes:
        fault: Its kind.
        about: In words.
        late: Whether it begins only when the traces of the other faults have gone.
        delay_seconds: Time after its beginning in which even what has nothing in it may wait.
    """

    fault: ClassVar[Fault]
    late: ClassVar[bool] = False
    delay_seconds: ClassVar[float] = 0.0

    def __init__(self, rng: random.Random, about: str) -> None:
        self.rng = rng
        self.about = about

    def begin(self, world: SimulatedWorld) -> None:
        raise NotImplementedError

    def mend(self, world: SimulatedWorld) -> None:
        """End it, or do what an operator has to do then."""

    def delays_decision(self, world: SimulatedWorld, home: int, task: TaskSubmitted) -> bool:
        """Whether the first decision about a task may wait for its end."""
        return False

    def delays_end(self, world: SimulatedWorld, home: int, task: TaskSubmitted) -> bool:
        """Whether the publication of a decided end may wait for its end."""
        return self.delays_decision(world, home, task)

    def steady_task(self, task: TaskSubmitted) -> TaskSubmitted:
        """A task as it is submitted during the trouble."""
        return task

    def leaves_out(self, topic: str) -> bool:
        """Whether commands for this topic (without prefix) may be left out, as documented."""
        return False

    def is_too_small(self, topic: str) -> bool:
        """Whether this topic (without prefix) refuses records for their size."""
        return False

    def verdict(self, world: SimulatedWorld) -> Iterable[str]:
        """Violations of what holds in this trouble alone."""
        return ()


class SickPartition(Trouble):
    """Nothing, or not everything, of one partition works."""

    fault = Fault.SICK_FOR_MINUTES

    def __init__(self, rng: random.Random) -> None:
        number = rng.randrange(PARTITIONS_AT_FIRST)
        draw, names = rng.choice(_KINDS)
        self._name = TopicPartition(PREFIX + of_some_worker(rng, rng.choice(names)), number)
        self._ailments = draw(rng)
        said = ", ".join(f"{sense}: {ailment.error or 'hangs'!r}" for sense, ailment in self._ailments.items())
        super().__init__(rng, f"{self._name} was sick ({said})")

    def begin(self, world: SimulatedWorld) -> None:
        world.cluster.sicken(self._name, **self._ailments)

    def mend(self, world: SimulatedWorld) -> None:
        world.cluster.heal(self._name)

    def delays_decision(self, world: SimulatedWorld, home: int, task: TaskSubmitted) -> bool:
        if self._name.topic.removeprefix(PREFIX) in _BY_TENANT:
            return partition_of(task.tenant.encode(), world.partitions) == self._name.partition
        return home == self._name.partition


def _appends_fail(rng: random.Random) -> Mapping[str, Ailment]:
    """Appends are answered with errors. None takes place later than any request can arrive."""
    return {
        "appends": rng.choice((
            Ailment(TransientError("no leader (simulated)"), rng.choice((0.01, 1.0))),
            Ailment(AppendUncertain("no answer (simulated)"), PATIENCE_SECONDS),
            Ailment(AppendUncertain("no answer (simulated)"), rng.choice((0.05, 1.0)), performed=True),
        ))
    }  # fmt: skip


def _appends_refused(_rng: random.Random) -> Mapping[str, Ailment]:
    return {"appends": Ailment(RecordRefused("invalid record (simulated)"), 0.01)}


def _reads_hang(_rng: random.Random) -> Mapping[str, Ailment]:
    return {"reads": HANGS}


def _unavailable(rng: random.Random) -> Mapping[str, Ailment]:
    """Its brokers are gone: nothing of it works."""
    failure = Ailment(TransientError("no leader (simulated)"), rng.choice((0.05, PATIENCE_SECONDS)))
    return {"appends": failure, "reads": HANGS, "bounds": failure}


_BY_TENANT: Final = frozenset({"audit.recorded", "usage.recorded"})
_WRITTEN_BY_ROUTERS: Final = (
    "tasks.journal", "tasks.completed", "audit.recorded", "work.local.interactive", "work.local.batch",
)  # fmt: skip
_READ_BY_GROUPS: Final = (
    "tasks.submitted", "attempts.finished", "work.local.interactive", "work.local.batch", "usage.recorded",
)  # fmt: skip
_WRITTEN_BY_WORKERS: Final = ("attempts.finished", "usage.recorded")
_KINDS: Final[tuple[tuple[Callable[[random.Random], Mapping[str, Ailment]], tuple[str, ...]], ...]] = (
    (_appends_fail, _WRITTEN_BY_ROUTERS),
    (_appends_fail, _WRITTEN_BY_WORKERS),
    (_appends_refused, _WRITTEN_BY_ROUTERS),
    (_reads_hang, _READ_BY_GROUPS),
    (_unavailable, _WRITTEN_BY_ROUTERS),
    (_unavailable, _READ_BY_GROUPS),
)


class RefusedRecords(Trouble):
    """A topic takes no large records, or none at all. The former is for good: nothing may wait for it."""

    fault = Fault.RECORDS_REFUSED

    def __init__(self, rng: random.Random) -> None:
        self._topic = rng.choice(("tasks.completed", "tasks.completed", "audit.recorded", "tasks.replies", "work."))
        self._denied = rng.random() < 0.4
        self._limit = _TINY_LIMIT if self._topic == "audit.recorded" else _SMALL_LIMIT
        # Routers know the limits, or find out.
        self.known = not self._denied and rng.random() < 0.5
        how = "was not writable" if self._denied else f"took {self._limit} bytes"
        super().__init__(rng, f"{self._topic} {how}")

    def _names(self) -> Collection[str]:
        return [PREFIX + name for name in topics.TOPICS if name.startswith(self._topic) and not name.endswith(".dlq")]

    def begin(self, world: SimulatedWorld) -> None:
        if self._denied:
            world.cluster.denied.update(self._names())
        else:
            world.cluster.record_limits.update(dict.fromkeys(self._names(), self._limit))

    def mend(self, world: SimulatedWorld) -> None:
        # A limit stays as it is.
        world.cluster.denied.clear()

    def delays_end(self, world: SimulatedWorld, home: int, task: TaskSubmitted) -> bool:
        return self._denied and self._topic == "tasks.completed"

    def steady_task(self, task: TaskSubmitted) -> TaskSubmitted:
        if self.rng.random() < 0.5:
            return task
        (message,) = task.messages
        content = replace(message.content, data=message.content.data + b" " + LONG_QUESTION.encode())
        return replace(task, messages=(replace(message, content=content),))

    def leaves_out(self, topic: str) -> bool:
        if topic == "audit.recorded":
            return self._topic == topic and not self._denied
        return topic == "tasks.replies" == self._topic

    def is_too_small(self, topic: str) -> bool:
        return not self._denied and topic.startswith(self._topic)


def with_what_workers_hear(topic: str) -> Sequence[str]:
    """The topic; for requests to cancel also those that tell workers of them, which no seed draws by themselves."""
    more = [topics.cancelled_topic(place).name for place in Place] if topic == topics.TASKS_CANCELLED.name else ()
    return (topic, *more)


class HeldInput(Trouble):
    """A foreign producer's transaction stays open: of one partition nothing behind its first record can be read."""

    fault = Fault.TRANSACTION_LASTS
    late = True

    def __init__(self, rng: random.Random) -> None:
        topic = rng.choice(("tasks.submitted", "tasks.cancelled", "attempts.finished", "work.local.interactive",
                            "usage.recorded", "fleet.status", "preferences"))  # fmt: skip
        topic = of_some_worker(rng, topic)
        single = topics.TOPICS[topic].partitions == 1
        self._name = TopicPartition(PREFIX + topic, 0 if single else rng.randrange(PARTITIONS_AT_FIRST))
        self._held = [TopicPartition(PREFIX + each, self._name.partition) for each in with_what_workers_hear(topic)]
        super().__init__(rng, f"a transaction in {self._name} was open")

    def begin(self, world: SimulatedWorld) -> None:
        for name in self._held:
            world.cluster.hold_stable_offset(name, world.cluster.partition(name).end)
        # Whoever starts now reads up to it, and does not wait.
        for process in world.processes:
            world.loop.outside(self.rng.uniform(1.0, 2.0), process.crash)

    def mend(self, world: SimulatedWorld) -> None:
        for name in self._held:
            world.cluster.hold_stable_offset(name, None)

    def delays_decision(self, world: SimulatedWorld, home: int, task: TaskSubmitted) -> bool:
        return self._name.topic == PREFIX + "tasks.submitted" and home == self._name.partition

    def delays_end(self, world: SimulatedWorld, home: int, task: TaskSubmitted) -> bool:
        return False


class JournalJunk(Trouble):
    """Another program has written into a partition of the journal, and an operator skips its records."""

    fault = Fault.JOURNAL_JUNK

    def __init__(self, rng: random.Random) -> None:
        self._name = TopicPartition(PREFIX + "tasks.journal", rng.randrange(PARTITIONS_AT_FIRST))
        self._values = [
            rng.choice((b"junk", b"", b"\x00\x00\x00\x00\x01rubbish", b"\x00\xff\xff\xff\xffx", b"{}"))
            for _ in range(rng.randint(1, 3))
        ]
        self._offsets: list[int] = []
        super().__init__(rng, f"{self._name} had junk {self._values}")

    def begin(self, world: SimulatedWorld) -> None:
        world.cluster.client = "stranger"
        for value in self._values:
            key = self.rng.choice((b"junk", None))
            written = world.cluster.append(ProducerRecord(self._name.topic, value, key, self._name.partition), 0)
            self._offsets.append(written.offset)

    def mend(self, world: SimulatedWorld) -> None:
        """As `headrace journal skip`, which checks besides that the record cannot be read."""
        world.cluster.client = "operator"
        for offset in self._offsets:
            skip_id = f"skip/{self._name.partition}/{offset}"
            world.clients.write(
                Publication(
                    spec=topics.TASKS_JOURNAL,
                    event=JournalEntry(
                        kind=EntryKind.SKIP, owner="operator", skipped_offset=offset, note="junk",
                        decided_at=world.now_ms(),
                    ),
                    event_id=skip_id, key=skip_id.encode(), tenant="", time_ms=world.now_ms(),
                    partition=self._name.partition,
                )
            )  # fmt: skip

    def delays_decision(self, world: SimulatedWorld, home: int, task: TaskSubmitted) -> bool:
        return home == self._name.partition
