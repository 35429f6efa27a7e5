"""Gathers attempts of one kind for a short time, and records them together as a batch.

An attempt is handed over when the record of its batch is acknowledged: only then its own record is finished, and from
then on the batch is a piece of work of its own, which any worker may go on with. Until then the attempt is nowhere but
in its record of work, and is gathered again by whoever gets that.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from headrace_contracts.errors import RegistryUnavailable
from headrace_contracts.events import BatchMember, BatchPhase, ProviderBatch
from headrace_streams.dead_letters import described
from headrace_streams.errors import RecordRefused, TransientError

from headrace_models.worker.batches.batch_log import BatchLog
from headrace_models.worker.batches.choosing import BatchKind, BatchOptions, due_at

_log = logging.getLogger(__name__)

_RETRY_SECONDS: Final = 1.0


@dataclass(slots=True)
class _Gathering:
    opened_ms: int
    members: list[tuple[BatchMember, int | None, asyncio.Future[bool]]] = field(default_factory=list)
    size_bytes: int = 0
    timer: asyncio.TimerHandle | None = None


class Gatherer:
    """The batches that are being put together.

    Args:
        clock_ms: Milliseconds since the epoch.
        new_id: Makes the id of a batch: a UUID.
        worker: Name of this process.
    """

    def __init__(
        self,
        batches: BatchLog,
        options: BatchOptions,
        *,
        clock_ms: Callable[[], int],
        new_id: Callable[[], str],
        worker: str,
    ) -> None:
        self._batches = batches
        self._options = options
        self._clock_ms = clock_ms
        self._new_id = new_id
        self._worker = worker
        self._open: dict[BatchKind, _Gathering] = {}
        self._writing: set[asyncio.Task[None]] = set()
        self._stopping = False

    async def add(self, kind: BatchKind, member: BatchMember, deadline_at: int | None, size_bytes: int) -> bool:
        """Put an attempt into the next batch of its kind; returns whether it is in one, once that is recorded.

        False if it must be an ordinary call. Cancelling this takes the attempt out again, unless it is being recorded.
        """
        if size_bytes > self._options.most_bytes:
            return False
        gathering = self._open.get(kind)
        if gathering is not None and gathering.size_bytes + size_bytes > self._options.most_bytes:
            self._close(kind)
            gathering = None
        if gathering is None:
            gathering = self._open[kind] = _Gathering(self._clock_ms())
            loop = asyncio.get_running_loop()
            gathering.timer = loop.call_later(self._options.gather_seconds, self._close, kind)
        handed: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        entry = (member, deadline_at, handed)
        gathering.members.append(entry)
        gathering.size_bytes += size_bytes
        if self._stopping or len(gathering.members) >= self._options.most_attempts:
            self._close(kind)
        try:
            return await handed
        except asyncio.CancelledError:
            if self._open.get(kind) is gathering:
                gathering.members.remove(entry)
                gathering.size_bytes -= size_bytes
            raise

    async def flush(self) -> None:
        """Record what there is, and from now on each attempt at once: this worker is about to stop."""
        self._stopping = True
        for kind in list(self._open):
            self._close(kind)

    async def close(self) -> None:
        """Let go of everything: what is not recorded yet is gathered anew by whoever gets its record of work."""
        for kind in list(self._open):
            gathering = self._open.pop(kind)
            if gathering.timer is not None:
                gathering.timer.cancel()
        for task in self._writing:
            task.cancel()
        await asyncio.gather(*self._writing, return_exceptions=True)

    def _close(self, kind: BatchKind) -> None:
        gathering = self._open.pop(kind)
        if gathering.timer is not None:
            gathering.timer.cancel()
        if gathering.members:
            task = asyncio.create_task(self._record(kind, gathering), name=f"batch of {kind.provider}/{kind.model}")
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)

    async def _record(self, kind: BatchKind, gathering: _Gathering) -> None:
        try:
            await self._refreshed()
            handed = await self._recorded(kind, gathering)
        except Exception as error:  # noqa: BLE001 - whatever it is, the attempts must not wait for ever
            _log.error("a batch of %s cannot be recorded, its attempts are ordinary calls: %s", kind, described(error))
            handed = set()
        for member, _, done in gathering.members:
            if not done.done():
                done.set_result(member.attempt_id in handed)

    async def _refreshed(self) -> None:
        """Be sure of what stands in the log: an attempt that comes again may be in a batch already."""
        while True:
            try:
                await self._batches.refresh()
            except (TransientError, RegistryUnavailable) as error:
                _log.warning("open batches cannot be read yet, retrying: %s", described(error))
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                return

    async def _recorded(self, kind: BatchKind, gathering: _Gathering) -> set[str]:
        """Record the batch; returns the attempts that are in one."""
        waiting = {member.attempt_id: (member, deadline) for member, deadline, done in gathering.members
                   if not done.cancelled()}  # fmt: skip
        known = {attempt for attempt in waiting if self._batches.batch_of(attempt) is not None}
        new = [entry for attempt, entry in waiting.items() if attempt not in known]
        if not new:
            return known
        if (
            Counter(batch.provider for batch in self._batches.batches.values())[kind.provider]
            >= self._options.most_open
        ):
            _log.warning(
                "%s has as many open batches as are allowed: %d calls are ordinary ones", kind.provider, len(new)
            )
            return known
        now = self._clock_ms()
        batch = ProviderBatch(
            batch_id=self._new_id(),
            provider=kind.provider,
            model=kind.model,
            phase=BatchPhase.GATHERED,
            members=tuple(member for member, _ in new),
            gathered_at=now,
            due_at=due_at((deadline for _, deadline in new), now, self._options),
            changed_at=now,
            worker=self._worker,
        )
        try:
            await self._batches.write(batch)
        except RecordRefused as error:
            _log.error("a batch of %d attempts cannot be recorded: %s", len(new), described(error))
            return known
        _log.info("batch %s: %d attempts for %s/%s", batch.batch_id, len(new), kind.provider, kind.model)
        return known | {member.attempt_id for member in batch.members}
