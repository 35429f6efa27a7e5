"""Looks answers up in the store, and brings new ones there, without ever holding up a task for long.

Lookups that come together share one query. A store that is away, or slow, costs a task `timeout_seconds` once; after
that nobody asks for a while, and tasks go to models as if nothing were stored. New answers wait in a bounded buffer and
are written together; what does not fit, or is in the buffer of a process that dies, is only a saving less.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from headrace_contracts.codec import Codec
from headrace_contracts.errors import Origin, RegistryUnavailable, UnencodableEvent, UnreadableValue
from headrace_contracts.events import TaskCompleted, TaskState
from headrace_contracts.topics import TASKS_COMPLETED
from headrace_runtime.database import DatabaseAway
from headrace_runtime.logging import get_logger
from headrace_runtime.metrics import Metrics
from headrace_streams.errors import BatchRefused

from headrace_router.adapters.answer_store import AnswerRow, AnswerStore
from headrace_router.decide.model import StoredAnswer
from headrace_router.decide.stored_answers import for_storing, may_be_stored

_ASKED_AT_ONCE: Final = 500
_WRITTEN_AT_ONCE: Final = 500
_GATHER_SECONDS: Final = 0.2
_AWAY_SECONDS: Final = 2.0
_SWEEP_SECONDS: Final = 60.0
_ORIGIN: Final = Origin("answers.answers", 0, 0)

_Key = tuple[str, str]

_log = get_logger("headrace.router.answers")


class AnswersMetrics:
    """What becomes of lookups and of new answers."""

    def __init__(self, metrics: Metrics) -> None:
        self.lookups = metrics.counter("stored_answer_lookups", "Lookups of stored answers, by result.", ["result"])
        self.lookup_seconds = metrics.latency("stored_answer_lookup", "Time that a task waited for a lookup.")
        self.kept = metrics.counter("stored_answers_kept", "Answers that were stored.")
        self.dropped = metrics.counter("stored_answers_dropped", "Answers that were not stored, by reason.", ["reason"])
        self.rows = metrics.gauge("stored_answers", "Stored answers of all tenants.")
        self.bytes = metrics.gauge("stored_answer_bytes", "Bytes of the stored answers of all tenants.")


class StoredAnswers:
    """The stored answers, as a router uses them.

    Args:
        kept_ms: How long answers are kept by the installation's policy, in milliseconds; 0: none are.
        clock: Milliseconds since the epoch.
        timeout_seconds: Longest wait of a task for a lookup.
        pause_seconds: How long nobody asks after a lookup that failed.
        buffer_bytes: Most bytes of answers that wait to be written.
    """

    def __init__(
        self,
        store: AnswerStore,
        codec: Codec,
        metrics: AnswersMetrics,
        *,
        kept_ms: Callable[[], int],
        clock: Callable[[], int],
        timeout_seconds: float = 0.05,
        pause_seconds: float = 5.0,
        buffer_bytes: int = 8 * 1024 * 1024,
    ) -> None:
        self._store = store
        self._codec = codec
        self._metrics = metrics
        self._kept_ms = kept_ms
        self._clock = clock
        self._timeout = timeout_seconds
        self._pause = pause_seconds
        self._buffer_bytes = buffer_bytes
        self._loop = asyncio.get_running_loop()
        self._asked: dict[_Key, list[asyncio.Future[StoredAnswer | None]]] = {}
        self._asking: asyncio.Task[None] | None = None
        self._away_until = 0.0
        self._buffer: deque[AnswerRow] = deque()
        self._buffered = 0
        self._written = asyncio.Event()

    @property
    def available(self) -> bool:
        """Whether it is worth asking now."""
        return self._loop.time() >= self._away_until and self._kept_ms() > 0

    def find(self, tenant: str, digest: str) -> asyncio.Future[StoredAnswer | None]:
        """What is stored for tasks of a tenant with this digest; None also when the store does not say. Never fails."""
        asked: asyncio.Future[StoredAnswer | None] = self._loop.create_future()
        began = self._loop.time()
        asked.add_done_callback(lambda _: self._metrics.lookup_seconds.observe(self._loop.time() - began))
        self._asked.setdefault((tenant, digest), []).append(asked)
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask(), name="stored answers")
        return asked

    def recorded(self, state: TaskState) -> None:
        """A state is in the journal: if it is an end that may be stored, it will be, soon."""
        end = state.result
        if end is None or not may_be_stored(end, state.digest) or not self._kept_ms():
            return
        try:
            value = self._codec.encode(TASKS_COMPLETED, for_storing(end))
        except (UnencodableEvent, RegistryUnavailable):
            self._metrics.dropped.labels("unencodable").inc()
            return
        row = AnswerRow(end.tenant, state.digest, end.task_id, end.completed_at, value)
        if self._buffered + row.bytes > self._buffer_bytes:
            self._metrics.dropped.labels("buffer_full").inc()
            return
        self._buffer.append(row)
        self._buffered += row.bytes
        self._written.set()

    async def run(self) -> None:
        """Write what is recorded, and sweep, until cancelled."""
        async with asyncio.TaskGroup() as works:
            works.create_task(self._keep_writing())
            works.create_task(self._keep_sweeping())

    async def drain(self) -> None:
        """Write what waits, if the store takes it at once."""
        try:
            async with asyncio.timeout(1.0):
                while self._buffer:
                    await self._write()
        except (DatabaseAway, TimeoutError) as error:
            _log.info("answers were not stored", answers=len(self._buffer), reason=str(error))

    async def _ask(self) -> None:
        try:
            # What has gathered behind a lookup that failed does not wait for another one.
            while self._asked and self.available:
                keys = list(self._asked)[:_ASKED_AT_ONCE]
                asked = {key: self._asked.pop(key) for key in keys}
                found: Mapping[_Key, StoredAnswer] = {}
                result = "miss"
                try:
                    async with asyncio.timeout(self._timeout):
                        found = await self._read(await self._store.find(keys))
                except (DatabaseAway, TimeoutError, RegistryUnavailable) as error:
                    self._missed(error)
                    result = "away"
                except Exception:  # noqa: BLE001 - a defect; the tasks go to a model as without a cache
                    _log.exception("looking up stored answers failed")
                    self._away_until = self._loop.time() + self._pause
                    result = "away"
                for key, waiting in asked.items():
                    answer = found.get(key)
                    self._metrics.lookups.labels("hit" if answer is not None else result).inc(len(waiting))
                    for each in waiting:
                        if not each.done():
                            each.set_result(answer)
        finally:
            self._asking = None
            for waiting in self._asked.values():
                for each in waiting:
                    if not each.done():
                        each.set_result(None)
            self._asked.clear()

    async def _read(self, values: Mapping[_Key, bytes]) -> Mapping[_Key, StoredAnswer]:
        """Raises RegistryUnavailable."""
        found = {}
        for key, value in values.items():
            try:
                end = await self._codec.read(TaskCompleted, value, _ORIGIN)
            except UnreadableValue:
                # Of a registry that has been replaced, say. It is overwritten by the next answer, or ages.
                self._metrics.lookups.labels("unreadable").inc()
                continue
            found[key] = StoredAnswer(key[1], end)
        return found

    def _missed(self, error: Exception) -> None:
        if self.available:
            _log.warning(
                "stored answers cannot be looked up; tasks go to models", reason=str(error) or "it took too long",
                for_seconds=self._pause,
            )  # fmt: skip
        self._away_until = self._loop.time() + self._pause

    async def _keep_writing(self) -> None:
        while True:
            await self._written.wait()
            await asyncio.sleep(_GATHER_SECONDS)
            try:
                await self._write()
            except DatabaseAway as error:
                _log.debug("answers wait to be stored", answers=len(self._buffer), reason=str(error))
                await asyncio.sleep(_AWAY_SECONDS)

    async def _write(self) -> None:
        """Raises DatabaseAway; then nothing has left the buffer."""
        batch = [self._buffer[place] for place in range(min(len(self._buffer), _WRITTEN_AT_ONCE))]
        if batch:
            try:
                self._metrics.kept.inc(await self._store.keep(batch))
            except BatchRefused:
                await self._one_by_one(batch)
            for row in batch:
                self._buffer.popleft()
                self._buffered -= row.bytes
        if not self._buffer:
            self._written.clear()

    async def _one_by_one(self, batch: Sequence[AnswerRow]) -> None:
        for row in batch:
            try:
                self._metrics.kept.inc(await self._store.keep([row]))
            except BatchRefused as error:
                self._metrics.dropped.labels("refused").inc()
                _log.warning("an answer cannot be stored", task=row.task_id, reason=str(error))

    async def _keep_sweeping(self) -> None:
        while True:
            try:
                deleted = await self._store.sweep(self._clock(), self._kept_ms())
                rows, size = await self._store.totals()
                self._metrics.rows.set(rows)
                self._metrics.bytes.set(size)
                if deleted:
                    _log.info("deleted stored answers that are too old or too many", answers=deleted)
            except (DatabaseAway, BatchRefused) as error:
                _log.debug("stored answers are swept later", reason=str(error))
            await asyncio.sleep(_SWEEP_SECONDS)
