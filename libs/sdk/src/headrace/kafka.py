"""Headrace directly over its topics: submit tasks, follow their outcomes, publish skills and follow their changes.

For agents and services with access to Kafka. There is no API key here: Kafka's own ACLs determine who may write to
which topic, and the tenant is the one that the client was created with.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from weakref import WeakValueDictionary

from headrace_contracts import topics
from headrace_contracts.content import plain
from headrace_contracts.errors import Origin, UnreadableValue
from headrace_contracts.events import (
    Content,
    Lane,
    Message,
    Mode,
    Privacy,
    Sampling,
    SkillAction,
    SkillChanged,
    SkillSubmitted,
    TaskCancelled,
    TaskCompleted,
    TaskSubmitted,
)
from headrace_contracts.headers import header
from headrace_contracts.ids import completion_id, new_id, route_key
from headrace_contracts.schema_checks import keep_checking
from headrace_streams.ports import PartitionReader, Producer
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.records import RecordMetadata

from headrace.addresses import Addresses, locate
from headrace.connecting import Cluster
from headrace.consuming import Consumption, consume
from headrace.errors import HeadraceError, NotYet
from headrace.requests import Prompt, messages_of

__all__ = ["Cluster", "KafkaClient", "SubmittedTask", "consume"]

_BATCH = 500
_WAIT_SECONDS = 0.5


class FollowingBroke(HeadraceError):
    """Create a new client: the reader of tasks.completed failed, for the reason given as cause."""


@dataclass(frozen=True, slots=True)
class SubmittedTask:
    """A submitted task. As long as this object is referenced, its outcome is available.

    Attributes:
        task_id: Id of the task.
        key: Record key of all its records.
        partition: Its home partition.
        offset: Its offset in tasks.submitted.
    """

    task_id: str
    key: bytes
    partition: int
    offset: int
    _completed: asyncio.Future[TaskCompleted] = field(repr=False)

    async def completion(self, timeout: float | None = None) -> TaskCompleted:
        """Wait for its terminal state. Raises NotYet after `timeout` seconds, FollowingBroke."""
        return await _within(self.task_id, self._completed, timeout)


class KafkaClient:
    """The Kafka client for agents and services. Use it as an async context manager.

        async with KafkaClient(tenant="acme") as headrace:
            task = await headrace.submit("Explain murmur2.", role="documentation")
            print(text_of((await task.completion(timeout=60)).answer))

    Args:
        tenant: The tenant that pays, and owns the data.
        user: The user on whose behalf, as the tenant names them.
        cluster: The cluster; by default what `addresses`, else `locate` names.
        source: ce_source of all events written, such as the name of the program.
        clock: Milliseconds since the epoch.
    """

    def __init__(
        self,
        tenant: str,
        *,
        user: str = "",
        cluster: Cluster | None = None,
        addresses: Addresses | None = None,
        source: str | None = None,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.tenant = tenant
        self.user = user
        self._own_cluster = cluster is None
        self._cluster = cluster or Cluster.at(addresses or locate())
        self._source = source or f"headrace/sdk/{socket.gethostname()}"
        self._clock = clock
        self._producer: Producer | None = None
        self._publisher: Publisher | None = None
        self._reader: PartitionReader | None = None
        self._following: asyncio.Task[None] | None = None
        self._checking: asyncio.Task[None] | None = None
        self._waiting: WeakValueDictionary[str, asyncio.Future[TaskCompleted]] = WeakValueDictionary()

    async def __aenter__(self) -> Self:
        """Raises RegistryUnavailable, SchemaMissing, TopicMissing when Kafka or the registry is not ready."""
        try:
            await self._open()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _open(self) -> None:
        cluster = self._cluster
        await cluster.codec.prepare(
            [topics.TASKS_SUBMITTED, topics.TASKS_CANCELLED, topics.SKILLS_SUBMITTED, topics.TASKS_COMPLETED]
        )
        self._reader = cluster.log.reader()
        partitions = await self._reader.partitions_of(cluster.topic(topics.TASKS_COMPLETED))
        bounds = await self._reader.bounds(partitions)
        await self._reader.assign({part: end for part, (_, end) in bounds.items()})
        self._producer = cluster.log.producer()
        self._publisher = Publisher(self._producer, cluster.codec, self._source)
        self._following = asyncio.create_task(self._follow(self._reader), name="headrace-completions")
        self._checking = asyncio.create_task(keep_checking(cluster.codec), name="headrace-schema-ids")

    async def close(self) -> None:
        """Flush what is queued, and close the connections. Does not wait for tasks to end."""
        tasks = [task for task in (self._following, self._checking) if task is not None]
        self._following = self._checking = None
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._producer is not None:
            await self._producer.close()
            self._producer = self._publisher = None
        if self._reader is not None:
            await self._reader.close()
            self._reader = None
        if self._own_cluster:
            await self._cluster.close()

    async def submit(
        self,
        prompt: Prompt,
        *,
        role: str | None = None,
        model: str | None = None,
        kind: str = "chat",
        privacy: Privacy | None = None,
        lane: Lane | None = None,
        mode: Mode | None = None,
        preferred_provider: str | None = None,
        sampling: Sampling | None = None,
        budget_nanodollars: int | None = None,
        deadline_at: int | None = None,
        session: str | None = None,
        subject: str | None = None,
        labels: Mapping[str, str] | None = None,
        user: str | None = None,
        allow_cached: bool = True,
        task_id: str | None = None,
        traceparent: str | None = None,
    ) -> SubmittedTask:
        """Append a task to tasks.submitted; returns once it is durable.

        Args:
            prompt: A user's message, or a conversation.
            deadline_at: Milliseconds since the epoch.
            user: The user on whose behalf; by default the client's.
            task_id: Id to use, so that an append of unknown outcome can be repeated without a second task.
            others: See the record TaskSubmitted.

        Raises ValueError for a prompt without messages, and what `Producer.send` raises.
        """
        messages = tuple(
            Message(role=message["role"], content=plain(message["content"])) for message in messages_of(prompt)
        )
        key = self._route_key(messages, session=session, role=role, model=model)
        now = self._clock()
        task_id = task_id or new_id()
        event = TaskSubmitted(
            task_id=task_id,
            tenant=self.tenant,
            user=self.user if user is None else user,
            kind=kind,
            role=role,
            model=model,
            messages=messages,
            sampling=sampling or Sampling(),
            privacy=privacy,
            lane=lane,
            mode=mode,
            preferred_provider=preferred_provider,
            budget_nanodollars=budget_nanodollars,
            deadline_at=deadline_at,
            session=session,
            subject=subject,
            labels=dict(labels or {}),
            allow_cached=allow_cached,
            submitted_at=now,
        )
        completed = self._future(task_id)
        appended = await self._append(
            Publication(
                spec=topics.TASKS_SUBMITTED,
                event=event,
                event_id=task_id,
                key=key,
                tenant=self.tenant,
                time_ms=now,
                subject=subject,
                traceparent=traceparent,
            )
        )
        return SubmittedTask(task_id, key, appended.partition, appended.offset, completed)

    async def submit_and_wait(
        self, prompt: Prompt, *, timeout: float | None = None, role: str | None = None,
        model: str | None = None, privacy: Privacy | None = None, lane: Lane | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> TaskCompleted:  # fmt: skip
        """`submit` with its most common arguments, then `completion`. Raises what they raise."""
        task = await self.submit(prompt, role=role, model=model, privacy=privacy, lane=lane, labels=labels)
        return await task.completion(timeout)

    async def completion(self, task_id: str, timeout: float | None = None) -> TaskCompleted:
        """Wait for the terminal state of any task, of any client, that has not ended before this call.

        For tasks of this client, use what `submit` returns. Raises NotYet after `timeout` seconds, FollowingBroke.
        """
        return await _within(task_id, self._future(task_id), timeout)

    async def cancel(self, task: SubmittedTask, reason: str = "") -> None:
        """Ask to cancel a task; its one terminal state tells whether that came in time."""
        now = self._clock()
        await self._append(
            Publication(
                spec=topics.TASKS_CANCELLED,
                event=TaskCancelled(
                    task_id=task.task_id,
                    tenant=self.tenant,
                    home_partition=task.partition,
                    requested_by=self.user,
                    reason=reason,
                    requested_at=now,
                ),
                event_id=f"{task.task_id}/cancel",
                key=task.key,
                partition=task.partition,
                tenant=self.tenant,
                time_ms=now,
            )
        )

    async def publish_skill(
        self,
        name: str,
        body: str,
        *,
        interests: Iterable[str],
        title: str = "",
        summary: str = "",
        author: str = "",
    ) -> str:
        """Ask to publish a new version of a skill; returns the submission's id once it is durable."""
        return await self._submit_skill(
            SkillAction.PUBLISH, name, plain(body), tuple(interests), title=title, summary=summary, author=author
        )

    async def revoke_skill(self, name: str, *, author: str = "") -> str:
        """Ask to revoke a skill; returns the submission's id once it is durable."""
        return await self._submit_skill(SkillAction.REVOKE, name, None, (), title="", summary="", author=author)

    def skill_changes(self, *interests: str) -> Consumption[SkillChanged]:
        """The tenant's skill changes in these domains from now on; only their partitions of the feed are read."""
        keys = {f"{self.tenant}/{interest}".encode() for interest in interests}
        return consume(topics.SKILLS_FEED.name, SkillChanged, keys=keys, cluster=self._cluster)

    async def _submit_skill(
        self,
        action: SkillAction,
        name: str,
        body: Content | None,
        interests: tuple[str, ...],
        *,
        title: str,
        summary: str,
        author: str,
    ) -> str:
        now = self._clock()
        submission = SkillSubmitted(
            submission_id=new_id(),
            tenant=self.tenant,
            name=name,
            action=action,
            title=title,
            summary=summary,
            body=body,
            interests=interests,
            digest=None if body is None else hashlib.sha256(body.data).hexdigest(),
            author=author or self.user,
            submitted_at=now,
        )
        await self._append(
            Publication(
                spec=topics.SKILLS_SUBMITTED,
                event=submission,
                event_id=submission.submission_id,
                key=f"{self.tenant}/{name}".encode(),
                tenant=self.tenant,
                time_ms=now,
            )
        )
        return submission.submission_id

    async def _append(self, publication: Publication) -> RecordMetadata:
        if self._publisher is None:
            raise RuntimeError("open the client first: async with KafkaClient(...) as client")
        return await self._publisher.send(publication)

    def _route_key(
        self, messages: Sequence[Message], *, session: str | None, role: str | None, model: str | None
    ) -> bytes:
        said = [(message.role, message.content.data) for message in messages]
        return route_key(tenant=self.tenant, session=session, role=role, model=model, messages=said).encode()

    def _future(self, task_id: str) -> asyncio.Future[TaskCompleted]:
        if self._following is None or self._following.done():
            raise FollowingBroke("the client is not open, or its reader of tasks.completed has failed: open a new one")
        future = self._waiting.get(task_id)
        if future is None:
            future = asyncio.get_running_loop().create_future()
            self._waiting[task_id] = future
        return future

    async def _follow(self, reader: PartitionReader) -> None:
        try:
            while True:
                for record in await reader.poll(_BATCH, _WAIT_SECONDS):
                    # Comparing the id in the header avoids decoding the outcomes of all other clients' tasks.
                    event_id = header(record.headers, "ce_id")
                    if event_id is not None and _task_of(event_id) not in self._waiting:
                        continue
                    origin = Origin(record.topic, record.partition, record.offset)
                    try:
                        event = await self._cluster.codec.read(TaskCompleted, record.value, origin)
                    except UnreadableValue as error:
                        # A record that cannot be decoded must not keep the outcomes of other tasks from their waiters.
                        self._fail(self._waiting.get(_task_of(event_id or "")), error)
                        continue
                    future = self._waiting.get(event.task_id)
                    if future is not None and not future.done():
                        future.set_result(event)
        # Any error that ends the reading is passed to all waiters.
        except Exception as error:  # noqa: BLE001
            for future in list(self._waiting.values()):
                self._fail(future, error)

    @staticmethod
    def _fail(future: asyncio.Future[TaskCompleted] | None, error: Exception) -> None:
        if future is None or future.done():
            return
        broke = FollowingBroke(f"reading tasks.completed failed: {type(error).__name__}: {error}")
        broke.__cause__ = error
        future.set_exception(broke)
        future.exception()  # mark it as retrieved: asyncio need not warn about a task without waiters


def _task_of(event_id: str) -> str:
    return event_id.removesuffix(completion_id(""))


async def _within(task_id: str, future: asyncio.Future[TaskCompleted], timeout: float | None) -> TaskCompleted:
    try:
        async with asyncio.timeout(timeout):
            return await asyncio.shield(future)
    except TimeoutError:
        raise NotYet(task_id, timeout or 0.0) from None
