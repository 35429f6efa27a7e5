"""Headrace directly over its topics: submit tasks, follow their outcomes, publish skills and follow their changes.

For agents and services with access to Kafka. Kafka's own ACLs determine who may write to which topic. The tenant is the
one that the client was created with; an installation can require that the signing key of one of the tenant's API keys
shows that the client may speak for it.
"""

from __future__ import annotations

import asyncio
import hashlib
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from headrace_contracts import topics
from headrace_contracts.content import plain
from headrace_contracts.events import (
    Content,
    Lane,
    Mode,
    Options,
    Privacy,
    Routing,
    Sampling,
    SkillAction,
    SkillChanged,
    SkillSubmitted,
    TaskCancelled,
    TaskCompleted,
    TaskSubmitted,
)
from headrace_contracts.ids import new_id
from headrace_contracts.producer_signature import SigningKey
from headrace_contracts.schema_checks import keep_checking
from headrace_contracts.users import AGENT, CONTENT_READER
from headrace_streams.ports import PartitionReader, Producer
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.records import RecordMetadata

from headrace.addresses import Addresses, locate
from headrace.asking import Asking
from headrace.connecting import Cluster
from headrace.consuming import Consumption, consume
from headrace.errors import Misconfigured
from headrace.kafka_following import CompletionFollower, FollowingBroke, closed, within
from headrace.kafka_tasks import conversation_events, fields_of, record_key, task_of_completion
from headrace.messages import Prompt
from headrace.pieces import OnPiece
from headrace.requests import TaskOptions
from headrace.results import Task

__all__ = ["Cluster", "FollowingBroke", "KafkaClient", "SubmittedTask", "consume"]


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
        return await within(self.task_id, self._completed, timeout)


class KafkaClient(Asking):
    """The Kafka client for agents and services. Use it as an async context manager.

        async with KafkaClient(tenant="default") as headrace:
            answer = await headrace.ask("Explain murmur2.", role="documentation", timeout=60)
            print(answer.answer, answer.provider)

    `ask` and `run_tools` are those of the HTTP client, without pieces; `submit` and `completion` deal in records.

    Args:
        tenant: The tenant that pays, and owns the data.
        user: The user on whose behalf, as the tenant names them.
        cluster: The cluster; by default what `addresses`, else `locate` names.
        reading: The same cluster with a login that may read completions and skills, where that of `cluster` may only
            write, as Kafka's users `agent` and `content-reader`. By default `cluster`; on a secure stack, these users.
        signing_key: Signs all events written, `<key id>:<code>`; by default that of the cluster's addresses, if any. A
            secure stack has one, for the tenant `default`; to write for another one, give the signing key of its key.
        source: ce_source of all events written, such as the name of the program.
        clock: Milliseconds since the epoch.

    Raises SigningKeyInvalid, a ValueError.
    """

    def __init__(
        self,
        tenant: str,
        *,
        user: str = "",
        cluster: Cluster | None = None,
        reading: Cluster | None = None,
        addresses: Addresses | None = None,
        signing_key: str | None = None,
        source: str | None = None,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.tenant = tenant
        self.user = user
        own: list[Cluster] = []
        if cluster is None:
            where = addresses or locate()
            own.append(Cluster.at(where, user=AGENT))
            cluster = own[0]
            if reading is None and where.needs_login:
                own.append(Cluster.at(where, user=CONTENT_READER))
                reading = own[1]
        self._own_clusters = tuple(own)
        self._cluster = cluster
        self._reading = reading or cluster
        self._signing_key = cluster.signing_key if signing_key is None else SigningKey.parse(signing_key)
        self._signs_for = cluster.signs_for if signing_key is None else None
        self._source = source or f"headrace/sdk/{socket.gethostname()}"
        self._clock = clock
        self._producer: Producer | None = None
        self._publisher: Publisher | None = None
        self._reader: PartitionReader | None = None
        self._follower: CompletionFollower | None = None
        self._checking: asyncio.Task[None] | None = None

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
        self._reader = self._reading.log.reader()
        partitions = await self._reader.partitions_of(cluster.topic(topics.TASKS_COMPLETED))
        bounds = await self._reader.bounds(partitions)
        await self._reader.assign({part: end for part, (_, end) in bounds.items()})
        self._producer = cluster.log.producer()
        self._publisher = Publisher(self._producer, cluster.codec, self._source, self._signing_key)
        self._follower = CompletionFollower(self._reader, cluster.codec)
        self._checking = asyncio.create_task(keep_checking(cluster.codec), name="headrace-schema-ids")

    async def close(self) -> None:
        """Flush what is queued, and close the connections. Does not wait for tasks to end."""
        if self._checking is not None:
            self._checking.cancel()
            await asyncio.gather(self._checking, return_exceptions=True)
            self._checking = None
        if self._follower is not None:
            await self._follower.close()
            self._follower = None
        if self._producer is not None:
            await self._producer.close()
            self._producer = self._publisher = None
        if self._reader is not None:
            await self._reader.close()
            self._reader = None
        for cluster in self._own_clusters:
            await cluster.close()

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
        routing: Routing | None = None,
        sampling: Sampling | None = None,
        budget_nanodollars: int | None = None,
        deadline_at: int | None = None,
        session: str | None = None,
        subject: str | None = None,
        labels: Mapping[str, str] | None = None,
        user: str | None = None,
        allow_cached: bool = True,
        options: Options | None = None,
        task_id: str | None = None,
        traceparent: str | None = None,
    ) -> SubmittedTask:
        """Append a task to tasks.submitted; returns once it is durable.

        Args:
            prompt: A user's message, or a conversation.
            options: Tools, the form of the answer, and what else is asked beyond messages and sampling: the record, or
                what `headrace.kafka_tasks.options_event` makes of `TaskOptions`.
            deadline_at: Milliseconds since the epoch.
            user: The user on whose behalf; by default the client's.
            task_id: Id to use, so that an append of unknown outcome can be repeated without a second task.
            others: See the record TaskSubmitted.

        Raises ValueError for a prompt without messages, Misconfigured if the stack's signing key is that of another
        tenant, and what `Producer.send` raises.
        """
        now = self._clock()
        event = TaskSubmitted(
            task_id=task_id or new_id(),
            tenant=self.tenant,
            user=self.user if user is None else user,
            kind=kind,
            role=role,
            model=model,
            messages=conversation_events(prompt),
            sampling=sampling or Sampling(),
            options=options,
            privacy=privacy,
            lane=lane,
            mode=mode,
            preferred_provider=preferred_provider,
            routing=routing,
            budget_nanodollars=budget_nanodollars,
            deadline_at=deadline_at,
            session=session,
            subject=subject,
            labels=dict(labels or {}),
            allow_cached=allow_cached,
            submitted_at=now,
        )
        return await self._submit(event, traceparent)

    async def ended(
        self, prompt: Prompt, options: TaskOptions, *, timeout: float | None = None,
        idempotency_key: str | None = None, on_piece: OnPiece | None = None,
    ) -> Task:  # fmt: skip
        """Submit a task and wait until it has ended, in whatever way. Raises NotYet after `timeout` seconds, ValueError
        for what only the HTTP API has, and what `submit` raises."""
        if idempotency_key is not None:
            raise ValueError("Kafka knows no idempotency keys: give `submit` a task_id")
        if on_piece is not None:
            raise ValueError("pieces of answers come over HTTP: services alone may read tasks.replies")
        now = self._clock()
        event = TaskSubmitted(
            task_id=new_id(), tenant=self.tenant, user=options.get("user") or self.user,
            messages=conversation_events(prompt), submitted_at=now, **fields_of(options, now),
        )  # fmt: skip
        submitted = await self._submit(event)
        return task_of_completion(await submitted.completion(timeout), options.get("model"))

    async def _submit(self, event: TaskSubmitted, traceparent: str | None = None) -> SubmittedTask:
        key = record_key(event)
        completed = self._future(event.task_id)
        appended = await self._append(
            Publication(
                spec=topics.TASKS_SUBMITTED,
                event=event,
                event_id=event.task_id,
                key=key,
                tenant=self.tenant,
                time_ms=event.submitted_at,
                subject=event.subject,
                traceparent=traceparent,
            )
        )
        return SubmittedTask(event.task_id, key, appended.partition, appended.offset, completed)

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
        return await within(task_id, self._future(task_id), timeout)

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
        return consume(topics.SKILLS_FEED.name, SkillChanged, keys=keys, cluster=self._reading)

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
        if self._signs_for not in (None, self.tenant):
            # Kafka would take the record, and nobody would say that no service does.
            raise Misconfigured(
                f"the stack's own signing key signs for the tenant {self._signs_for} only, not for {self.tenant}: set "
                f"HEADRACE_SIGNING_KEY to the signing_key that `headrace keys create {self.tenant} --json` prints"
            )
        return await self._publisher.send(publication)

    def _future(self, task_id: str) -> asyncio.Future[TaskCompleted]:
        if self._follower is None:
            raise closed()
        return self._follower.end_of(task_id)
