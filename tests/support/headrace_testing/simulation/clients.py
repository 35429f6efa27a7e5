"""Clients that send tasks, cancel them, send them twice, and send undecodable records."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from headrace_contracts import topics
from headrace_contracts.content import plain
from headrace_contracts.events import Lane, Message, Mode, Privacy, Sampling, TaskCancelled, TaskSubmitted
from headrace_contracts.record_mac import MAC_HEADER
from headrace_streams.errors import AppendUncertain, TransientError
from headrace_streams.memory import MemoryLog
from headrace_streams.partitioning import partition_of
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.records import ProducerRecord, TopicPartition

from headrace_testing.router_twin import PREFIX, key_of
from headrace_testing.signatures import MAC, Signing
from headrace_testing.simulation.plan import Fault
from headrace_testing.simulation.troubles import of_some_worker

if TYPE_CHECKING:
    from headrace_testing.simulation.world import SimulatedWorld

SECRET = "SECRET"
"""Marker in all content that must not leave local nodes."""
INTERNAL = "INTERNAL"
"""Marker in all content that only consented providers may receive."""
_ROLES = (None, None, "documentation", "code_reviewer", "security_reviewer", "task_router")
POISONED = (
    topics.TASKS_SUBMITTED, topics.ATTEMPTS_FINISHED, topics.WORK_LOCAL_BATCH, topics.WORK_LOCAL_INTERACTIVE,
    topics.USAGE_RECORDED,
)  # fmt: skip


class Clients:
    """All clients as one process that neither dies nor freezes; its network is as unreliable as all others."""

    name = "clients"

    def __init__(self, world: SimulatedWorld) -> None:
        self._world = world
        self._rng = world.rng
        self._count = 0
        self._last: tuple[TaskSubmitted, float] | None = None
        self._homes: dict[str, int] = {}
        self.unsent = 0
        """What is still in flight."""
        self.network = world.network(self, mortal=False)
        log = MemoryLog(world.cluster, self.clock, client=self.name, network=self.network)
        self._publisher = Publisher(log.producer(), world.kit.codec, "headrace/clients", signer=MAC)

    def clock(self) -> int:
        return self._world.now_ms()

    def crash(self) -> None:
        """Never."""

    def freeze(self, seconds: float) -> None:
        """Never."""

    def expel(self) -> None:
        """From nothing."""

    def write(
        self,
        publication: Publication,
        *,
        inadmissible: bool = False,
        forged: bool = False,
        sign: Signing | None = None,
    ) -> None:
        """Write a record at once, whoever its author is.

        Args:
            inadmissible: Whether its readers must write it to their dead letters, though it can be decoded.
            sign: Signs it otherwise than a service of ours does.
            forged: Whether it reports what its author cannot know, so that nothing may follow from it.
        """
        cluster, record = self._world.cluster, self._publisher.record_of(publication)
        if sign is not None:
            unsigned = [header for header in record.headers if header[0] != MAC_HEADER]
            record = replace(record, headers=(*unsigned, *sign(record.topic, record.key, record.value)))
        place = cluster.place(record)
        if inadmissible:
            self._world.judge.poisoned(place, cluster.partition(place).end, decodable=True)
        if forged:
            self._world.judge.topics.announce_forgery(place, cluster.partition(place).end)
        cluster.append(record, self.clock())

    def begin(
        self, tasks: int, seconds: float, as_sent: Callable[[TaskSubmitted], TaskSubmitted] = lambda task: task
    ) -> None:
        """Send this many tasks, spread over this many seconds.

        Args:
            as_sent: Changes each task.
        """
        world, rng = self._world, self._rng
        for _ in range(tasks):
            # Many repeat an earlier question, often while that is not answered yet.
            if self._last is not None and rng.random() < world.plan.alike:
                task, at = self._alike(self._last[0]), self._last[1] + rng.choice((0.0, 0.1, 1.0, 5.0))
            else:
                task, at = world.teams.dressed(world.questions.dressed(self._draw_task())), rng.uniform(0.0, seconds)
            self._last = (task, at)
            self._later(at, self._one_task(as_sent(task)))
        if world.plan.rate(Fault.POISON):
            for _ in range(rng.randint(1, 6)):
                world.loop.outside(rng.uniform(0.0, seconds), self._poison)

    def _later(self, seconds: float, work: Any) -> None:
        async def run() -> None:
            await asyncio.sleep(seconds)
            await work
            self.unsent -= 1

        self.unsent += 1
        self._world.loop.as_process(None, lambda: asyncio.create_task(run()))

    async def _one_task(self, task: TaskSubmitted) -> None:
        world, rng = self._world, self._rng
        cancels = world.happens(Fault.CANCEL, task.task_id)
        early = world.happens(Fault.EARLY_CANCEL, task.task_id)
        if early:
            await self._cancel(task)
            await asyncio.sleep(rng.choice((0.0, 0.01, 3.0, 20.0)))
        await self._submit(task)
        if cancels:
            self._later(rng.choice((0.0, 0.02, 1.0, 8.0)), self._cancel(task))
        while world.happens(Fault.REPEATED_SUBMIT, task.task_id):
            self._later(rng.choice((0.0, 0.02, 2.0, 30.0)), self._submit(task))

    async def _submit(self, task: TaskSubmitted) -> None:
        await self._send(
            Publication(
                spec=topics.TASKS_SUBMITTED, event=task, event_id=task.task_id, key=key_of(task), tenant=task.tenant,
                time_ms=task.submitted_at, subject=task.task_id, partition=self._home_of(task),
            )
        )  # fmt: skip

    async def _cancel(self, task: TaskSubmitted) -> None:
        home = self._home_of(task)
        cancellation = TaskCancelled(
            task_id=task.task_id, tenant=task.tenant, home_partition=home, requested_at=self.clock()
        )
        await self._send(
            Publication(
                spec=topics.TASKS_CANCELLED, event=cancellation, event_id=f"{task.task_id}/cancel", key=key_of(task),
                tenant=task.tenant, time_ms=cancellation.requested_at, subject=task.task_id, partition=home,
            )
        )  # fmt: skip

    def _home_of(self, task: TaskSubmitted) -> int:
        """The partition of all that is written about a task, also after partitions were added: as intake does it."""
        topic = PREFIX + topics.TASKS_SUBMITTED.name
        count = self._world.cluster.partition_counts([topic])[topic]
        return self._homes.setdefault(task.task_id, partition_of(key_of(task), count))

    async def _send(self, publication: Publication) -> None:
        """Send until acknowledged: an uncertain append is repeated."""
        while True:
            try:
                await self._publisher.send(publication)
                return
            except (TransientError, AppendUncertain):
                await asyncio.sleep(self._rng.uniform(0.1, 2.0))

    def _poison(self) -> None:
        cluster, rng = self._world.cluster, self._rng
        spec = topics.TOPICS[of_some_worker(rng, rng.choice(POISONED).name)]
        value = rng.choice((b"", b"\x00\x00\x00\x00\x01rubbish", b"not Avro at all", None))
        key = rng.choice((b"s:acme/1", b"poison", None))
        cluster.client = "stranger"
        if PREFIX + spec.name in cluster.denied:
            return
        where = cluster.append(ProducerRecord(PREFIX + spec.name, value, key), self.clock())
        self._world.trace.fault(Fault.POISON.value, f"{where.topic}[{where.partition}]@{where.offset}")
        self._world.judge.poisoned(TopicPartition(where.topic, where.partition), where.offset)

    def _alike(self, task: TaskSubmitted) -> TaskSubmitted:
        self._count += 1
        return replace(task, task_id=_id_of(self._count), reply_partition=self._rng.choice((None, 0, 1)))

    def _draw_task(self) -> TaskSubmitted:
        rng, now = self._rng, self.clock()
        self._count += 1
        number = self._count
        tenant = rng.choice(("acme", "acme", "bolt"))
        privacy = rng.choice((None, Privacy.SENSITIVE, Privacy.INTERNAL, Privacy.PUBLIC))
        role = rng.choice(_ROLES)
        model = rng.choice((None, None, "groq/llama-3.3-70b-versatile", "anthropic/claude-haiku-4-5", "gemma2:2b"))
        text = f"What of {rng.randint(1, 2)}?" if rng.random() < 0.4 else f"What of task {number}?"
        if privacy is Privacy.SENSITIVE or (role == "security_reviewer" and model is None):
            text = f"{SECRET} {text}"
        elif privacy is not Privacy.PUBLIC:
            text = f"{INTERNAL}-{tenant} {text}"
        drawn = TaskSubmitted(
            task_id=_id_of(number),
            tenant=tenant,
            user=rng.choice(("", "ann")),
            role=role if model is None else None,
            model=model,
            messages=(Message(role="user", content=plain(text)),),
            sampling=Sampling(max_output_tokens=rng.choice((None, 50, 400))),
            privacy=privacy,
            lane=rng.choice((None, Lane.INTERACTIVE, Lane.BATCH)),
            mode=rng.choice((None, None, Mode.CLOUD)),
            budget_nanodollars=rng.choice((None, None, 100_000, 150_000, 500_000)),
            deadline_at=rng.choice((None, None, now + 4_000, now + 40_000)),
            session=rng.choice((None, None, "1", "2")),
            stream=rng.random() < 0.4,
            allow_cached=rng.random() < 0.8,
            reply_partition=rng.choice((None, 0, 1)),
            submitted_at=now,
        )
        if drawn.session is not None and text.startswith(SECRET) and number % 3:
            # Or all sessions would soon be sensitive, and nothing of them would be sent to the cloud.
            drawn = replace(drawn, session=f"private-{drawn.session}")
        return drawn if self._world.settings.varied else _unopposed(drawn)


def _unopposed(task: TaskSubmitted) -> TaskSubmitted:
    """The same task, but for a level or mode that its role or its own privacy opposes: it would not run."""
    local = task.role == "security_reviewer"
    if local:
        task = replace(task, privacy=None)
    return replace(task, mode=None) if local or task.privacy is Privacy.SENSITIVE else task


def _id_of(number: int) -> str:
    return f"00000000-0000-7000-8000-{number:012d}"
