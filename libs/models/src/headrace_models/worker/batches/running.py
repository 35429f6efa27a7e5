"""Carries batches to their end: submits them, looks after them, and settles their attempts.

A batch is a record of `provider.batches` that the parallel engine holds in flight: a worker owns the batches of its
partitions, and after a crash or a rebalance the next owner goes on with them (`steps`). Two owners at a time, one of
them not knowing that it has lost the partition, report the same results under the same ids.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Final

from headrace_contracts.codec import Codec
from headrace_contracts.errors import Origin
from headrace_contracts.events import BatchPhase, ProviderBatch
from headrace_streams.dead_letters import described
from headrace_streams.errors import TransientError
from headrace_streams.records import Record

from headrace_models.batch_calls import BatchLook, BatchState, NotSubmitted
from headrace_models.errors import ProviderError, RetrySameProvider
from headrace_models.worker.batches.batch_log import BatchLog
from headrace_models.worker.batches.choosing import BatchOptions, look_delay, name_of
from headrace_models.worker.batches.observing import BatchObserver
from headrace_models.worker.batches.settling import Settler
from headrace_models.worker.batches.steps import BatchAction, BatchInput, step
from headrace_models.worker.batches.taking import BatchClient, Refusals

_log = logging.getLogger(__name__)

_GONE_LOOKS: Final = 3
"""A provider that has not heard of a batch may hear of it a little later."""
_FIRST_RETRY_SECONDS: Final = 2.0
_LONGEST_RETRY_SECONDS: Final = 60.0


class ProviderBatchRunner:
    """The handler of records of batches.

    Args:
        clients: All providers with a batch API. Batches of those that are switched off are brought to their end.
        clock_ms: Milliseconds since the epoch.
        chance: A random number from 0 to 1.
    """

    def __init__(
        self,
        clients: Mapping[str, BatchClient],
        batches: BatchLog,
        settler: Settler,
        options: BatchOptions,
        refusals: Refusals,
        *,
        codec: Codec,
        clock_ms: Callable[[], int],
        chance: Callable[[], float],
        worker: str,
        observer: BatchObserver,
    ) -> None:
        self.clients = clients
        self.batches = batches
        self.settler = settler
        self.options = options
        self.refusals = refusals
        self.clock_ms = clock_ms
        self.chance = chance
        self.worker = worker
        self.observer = observer
        self._codec = codec
        self._running: set[_BatchRun] = set()

    async def handle(self, record: Record) -> None:
        """Carry the batch of a record to its end. Raises UnreadableValue, RegistryUnavailable, TransientError."""
        if record.value is None:
            return
        await self._codec.read(ProviderBatch, record.value, Origin(record.topic, record.partition, record.offset))
        await self.batches.refresh()
        # What stands there now, not what stood there when this record was written.
        batch = self.batches.batches.get((record.key or b"").decode("utf-8", "replace"))
        if batch is None:
            return
        if batch.phase is BatchPhase.UNKNOWN:
            raise TransientError(f"batch {batch.batch_id} is in a phase of a later release: that has to go on with it")
        run = _BatchRun(self, batch)
        self._running.add(run)
        try:
            await run.to_the_end()
        finally:
            self._running.discard(run)

    def cancelled(self, _tasks: AbstractSet[tuple[str, str]]) -> None:
        """Some tasks have just been cancelled."""
        for run in self._running:
            run.wake()

    def phases(self) -> list[tuple[str, str]]:
        """Provider and phase of each batch that this worker looks after."""
        return [(run.batch.provider, run.batch.phase.value) for run in self._running]


class _BatchRun:
    def __init__(self, runner: ProviderBatchRunner, batch: ProviderBatch) -> None:
        self.batch = batch
        self._runner = runner
        self._options = runner.options
        self._client = runner.clients.get(batch.provider)
        self._name = name_of(batch.batch_id)
        self._seen: BatchLook | None = None
        self._resumed_settling = batch.phase is BatchPhase.SETTLING
        self._looks = self._looks_gone = 0
        self._at_once = True
        self._woken = asyncio.Event()

    def wake(self) -> None:
        self._woken.set()

    async def to_the_end(self) -> None:
        happened = BatchInput.TAKEN
        if self.batch.phase is BatchPhase.GATHERED:
            if self._client is None or self._is_due():
                happened = BatchInput.DUE
            elif self._is_unwanted():
                happened = BatchInput.UNWANTED
        while True:
            phase, action = step(self.batch.phase, happened)
            if phase is None:
                await self._runner.batches.remove(self.batch.batch_id)
                return
            # A submission is recorded by itself, when it is known what is submitted.
            if action is not BatchAction.SUBMIT and phase is not self.batch.phase:
                await self._record(phase)
                self._looks = 0
            happened = await self._do(action)

    async def _do(self, action: BatchAction) -> BatchInput:
        match action:
            case BatchAction.SUBMIT:
                return await self._submit()
            case BatchAction.SEARCH:
                return await self._search()
            case BatchAction.LOOK:
                return await self._look()
            case BatchAction.CANCEL:
                return await self._cancel()
            case _:
                return await self._settle()

    async def _record(self, phase: BatchPhase, **changes: object) -> None:
        values = {"phase": phase, "changed_at": self._runner.clock_ms(), "worker": self._runner.worker, **changes}
        batch = replace(self.batch, **values)  # type: ignore[arg-type]
        await self._runner.batches.write(batch)
        self.batch = batch

    async def _submit(self) -> BatchInput:
        assert self._client is not None, "a batch without a client is settled"
        async with self._runner.settler.loaded(self.batch) as members:
            lines = self._runner.settler.lines_of(members, self._client, self._name)
            if not lines:
                return BatchInput.REFUSED
            loop = asyncio.get_running_loop()
            until, delay = loop.time() + self._options.patience_seconds, _FIRST_RETRY_SECONDS
            while not self._is_due():
                # Each time: from this moment on it may be at the provider.
                now = self._runner.clock_ms()
                await self._record(
                    BatchPhase.SUBMITTING,
                    calls=len(lines),
                    first_submitted_at=self.batch.first_submitted_at or now,
                )
                try:
                    found = await self._client.batches.submit(self._name, lines)
                except NotSubmitted as refused:
                    error = refused.__cause__
                    if not isinstance(error, RetrySameProvider) or loop.time() + delay > until:
                        return self._refused(error)
                    await asyncio.sleep(max(delay, min(error.after_seconds or 0.0, _LONGEST_RETRY_SECONDS)))
                    delay = min(2 * delay, _LONGEST_RETRY_SECONDS)
                except ProviderError as error:
                    _log.warning(
                        "whether batch %s has been submitted is unknown: %s", self.batch.batch_id, error.message
                    )
                    return BatchInput.RUNNING
                else:
                    return await self._is_there(found, BatchInput.ACCEPTED)
        return BatchInput.DUE

    def _refused(self, error: BaseException | None) -> BatchInput:
        reason = error.message if isinstance(error, ProviderError) else type(error).__name__
        _log.warning("batch %s is not taken, its calls are ordinary ones: %s", self.batch.batch_id, reason)
        rest = self._runner.clock_ms() + round(self._options.patience_seconds * 1000)
        self._runner.refusals.until[self.batch.provider] = rest
        self._runner.observer.refused(self.batch.provider)
        return BatchInput.REFUSED

    async def _is_there(self, provider_batch_id: str, happened: BatchInput) -> BatchInput:
        self.batch = replace(self.batch, provider_batch_id=provider_batch_id)
        self._runner.observer.submitted(self.batch.provider, self.batch.calls)
        _log.info("batch %s is %s at %s", self.batch.batch_id, provider_batch_id, self.batch.provider)
        # At a new batch there is nothing to see yet.
        self._at_once = happened is BatchInput.FOUND
        return happened

    async def _search(self) -> BatchInput:
        if self._client is None:
            return self._lost_sight()
        while True:
            try:
                await self._runner.batches.refresh()
                claimed = {
                    other.provider_batch_id
                    for other in self._runner.batches.batches.values()
                    if other.provider_batch_id is not None
                }
                since = self.batch.first_submitted_at or self.batch.gathered_at
                found = await self._client.batches.find(self._name, self.batch.calls, since, claimed)
            except (ProviderError, TransientError) as error:
                _log.warning("batch %s cannot be looked for: %s", self.batch.batch_id, described(error))
            else:
                if found.batch_id is not None:
                    return await self._is_there(found.batch_id, BatchInput.FOUND)
                shown = self.batch.changed_at + round(self._options.unheard_seconds * 1000)
                if not found.unsure and self._runner.clock_ms() >= shown:
                    return BatchInput.NOT_THERE
            if self._is_due():
                return self._lost_sight()
            await self._pause()

    def _lost_sight(self) -> BatchInput:
        _log.error(
            "batch %s may be at %s under an id that is unknown: what it costs there is not booked",
            self.batch.batch_id, self.batch.provider,
        )  # fmt: skip
        self._runner.observer.unaccounted(self.batch.provider)
        return BatchInput.DUE

    async def _look(self) -> BatchInput:
        ends_at = self.batch.due_at
        if self.batch.phase is BatchPhase.CANCELLING:
            ends_at = self.batch.changed_at + round(self._options.end_seconds * 1000)
        if not self._at_once:
            await self._pause(ends_at)
        self._at_once = False
        if self.batch.phase is BatchPhase.SUBMITTED and self._is_unwanted():
            return BatchInput.UNWANTED
        happened = await self._looked()
        if happened is BatchInput.RUNNING and self._runner.clock_ms() >= ends_at:
            if self.batch.phase is BatchPhase.CANCELLING:
                _log.error("batch %s does not end: what it still answers is not booked", self.batch.batch_id)
                self._runner.observer.unaccounted(self.batch.provider)
            return BatchInput.DUE
        return happened

    async def _looked(self) -> BatchInput:
        if self._client is None or self.batch.provider_batch_id is None:
            return BatchInput.GONE
        try:
            look = await self._client.batches.look(self.batch.provider_batch_id)
        except ProviderError as error:
            _log.warning("batch %s cannot be looked at: %s", self.batch.batch_id, error.message)
            return BatchInput.RUNNING
        self._seen = look
        self._looks_gone = self._looks_gone + 1 if look.state is BatchState.GONE else 0
        if look.state is BatchState.ENDED:
            return BatchInput.ENDED
        if self._looks_gone < _GONE_LOOKS:
            return BatchInput.RUNNING
        _log.error("%s does not know batch %s any more", self.batch.provider, self.batch.batch_id)
        self._runner.observer.unaccounted(self.batch.provider)
        return BatchInput.GONE

    async def _cancel(self) -> BatchInput:
        self._at_once = True
        if self._client is not None and self.batch.provider_batch_id is not None:
            try:
                await self._client.batches.cancel(self.batch.provider_batch_id)
            except ProviderError as error:
                # It may have ended by itself.
                _log.warning("batch %s cannot be cancelled: %s", self.batch.batch_id, error.message)
        return BatchInput.RUNNING

    async def _settle(self) -> BatchInput:
        await self._runner.settler.settle(
            self.batch, self._client, self._name, self._seen, resumed=self._resumed_settling
        )
        return BatchInput.SETTLED

    async def _pause(self, ends_at: int | None = None) -> None:
        """Wait for the next look, at most to a time; not at all once every task has been cancelled."""
        seconds = look_delay(self._looks, self._runner.chance(), self._options)
        self._looks += 1
        end = self.batch.due_at if ends_at is None else ends_at
        loop = asyncio.get_running_loop()
        until = loop.time() + min(seconds, max(0.0, (end - self._runner.clock_ms()) / 1000))
        while (left := until - loop.time()) > 0:
            self._woken.clear()
            if self.batch.phase is BatchPhase.SUBMITTED and self._is_unwanted():
                return
            try:
                async with asyncio.timeout(left):
                    await self._woken.wait()
            except TimeoutError:
                return

    def _is_due(self) -> bool:
        return self._runner.clock_ms() >= self.batch.due_at

    def _is_unwanted(self) -> bool:
        return all(self._runner.settler.is_cancelled(member) for member in self.batch.members)
