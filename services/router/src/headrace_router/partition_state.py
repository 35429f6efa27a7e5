"""A partition's state in memory: a fold over its journal, the same while running and while recovering."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from headrace_contracts.events import JournalEntry, TaskCancelled, TaskPhase, TaskState
from headrace_streams.journal import JournaledDecision

from headrace_router.decide.early_cancellations import EarlyCancellations
from headrace_router.decide.model import CAUSES, Cancelled
from headrace_router.decide.policy import CacheLimits
from headrace_router.decide.sensitive_sessions import NO_SESSIONS, KnownSessions
from headrace_router.decide.tasks import PartitionTasks
from headrace_router.limits import RouterLimits
from headrace_router.partition_sessions import PartitionSessions


@dataclass(frozen=True, slots=True)
class _Appended:
    """A state as the bytes of the entry that was appended with it (`decide.tasks.Encoded`)."""

    phase: TaskPhase
    digest: str
    wake_at: int | None
    work_topic: str | None
    turn: int | None
    value: bytes
    read: Callable[[bytes], JournalEntry]

    def entry(self) -> JournalEntry:
        return self.read(self.value)


class PartitionState:
    """Tasks, early cancellation requests, and when each live task was last written.

    Args:
        monotonic: Seconds on a monotonic clock.
        elsewhere: Sessions that are known to be sensitive from other partitions.
    """

    def __init__(
        self,
        cache: CacheLimits,
        limits: RouterLimits,
        monotonic: Callable[[], float],
        elsewhere: KnownSessions = NO_SESSIONS,
    ) -> None:
        self.tasks = PartitionTasks(cache, limits.remembered)
        self.cancellations = EarlyCancellations(
            limits.early_cancellations, round(limits.early_cancellation_seconds * 1000)
        )
        self.sessions = PartitionSessions(elsewhere)
        self.tasks.sessions = self.sessions
        self._monotonic = monotonic
        # In log order, which is the order in which retention removes entries.
        self._written: OrderedDict[str, float] = OrderedDict()

    def apply(
        self, task_id: str, state: TaskState, value: bytes = b"", read: Callable[[bytes], JournalEntry] | None = None
    ) -> None:
        """Apply a state that was just appended.

        Args:
            value: The encoded entry.
            read: Decodes it; without it, the state is held as it is.
        """
        self._date(task_id, state.phase, self._monotonic())
        self.cancellations.forget(task_id)
        encoded = None
        if read is not None:
            encoded = _Appended(state.phase, state.digest, state.wake_at, state.work_topic, state.turn, value, read)
        self.tasks.apply(task_id, state, encoded)

    def mark(self, state: TaskState, at: int) -> None:
        """Take the mark of the session of a state that was just appended, if it is sensitive."""
        if state.sensitive_session is not None:
            self.sessions.note(state.sensitive_session, at)

    def keep(self, cancellation: TaskCancelled, now: int) -> None:
        """Take a cancellation request that was just appended."""
        self.cancellations.keep(cancellation.task_id, cancellation, now, now)

    def restore(self, recorded: JournaledDecision, now: int) -> None:
        """Take an entry from the journal, at a time in milliseconds since the epoch."""
        task_id = recorded.task_id
        if recorded.sensitive_session is not None:
            self.sessions.note(recorded.sensitive_session, recorded.timestamp_ms)
        if recorded.phase is None:
            # An entry that only replaces an invalid record says nothing. Kept as a request, it would hide the real one,
            # since the first request for a task is the one that stands.
            if recorded.cause != CAUSES[Cancelled]:
                return
            if task_id not in self.tasks and not self.tasks.has_ended(task_id):
                self.cancellations.keep(task_id, recorded, recorded.timestamp_ms, now)
            return
        self._date(task_id, recorded.phase, self._monotonic() - max(0, now - recorded.timestamp_ms) / 1000)
        self.cancellations.forget(task_id)
        self.tasks.apply(task_id, recorded)

    def written_before(self, seconds: float) -> Iterator[str]:
        """Live tasks whose last entry is older than `seconds`, in log order."""
        before = self._monotonic() - seconds
        for task_id, at in self._written.items():
            if at > before:
                return
            yield task_id

    def _date(self, task_id: str, phase: TaskPhase, at: float) -> None:
        self._written.pop(task_id, None)
        if phase is not TaskPhase.FINISHED:
            self._written[task_id] = at
