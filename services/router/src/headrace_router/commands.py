"""Publishing the commands of one partition's journaled decisions, whatever the topics they go to are like.

The journal says what must be published, so nothing here is lost by a crash: an entry counts as published, and a
takeover no longer repeats it, only when each of its commands is settled. What cannot be published at once waits here
and is tried again, while the partition goes on. A command ends in one of these ways:

========  ==================================================================================================
terminal  Published once. Refused as too large: the task ends with a smaller terminal state instead. May or
state     may not be appended: only a takeover can find out.
attempt   Published, perhaps twice (its id tells, and the second one's header), or obsolete because the task has
          moved on. Too large: the attempt has failed, and the task goes on with its next candidate.
audit     Published, perhaps twice. Too large: cut, and if that is not enough, left out and logged.
cancel    Published, perhaps twice. Too large: left out, and the attempts go on to their end.
reply     Best effort: left out after a minute, or when too large. The terminal state is in tasks.completed.
========  ==================================================================================================

A refusal for another reason than the size (no right to write, no such topic) is for the operator to mend: it is said,
and what was refused waits. Only when so much waits that the limit in bytes is reached does the partition take no more
input.

Whatever is sent later than right after its entry's acknowledgement follows another one: a checkpoint shows that no
other owner has taken over meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from headrace_contracts.events import Command, CommandKind, JournalEntry
from headrace_contracts.headers import REPEATED
from headrace_contracts.reply_tokens import ReplyTokens
from headrace_runtime.logging import get_logger
from headrace_streams.errors import Overloaded, RecordRefused, RecordTooLarge, StreamsError, TransientError
from headrace_streams.journal import Journal
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.records import ProducerRecord, RecordMetadata
from headrace_streams.topic_limits import TopicLimits, size_of

from headrace_router.decide.publications import all_equal, publication, shortened
from headrace_router.metrics import RouterMetrics
from headrace_router.pending_appends import PendingAppends

_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 5.0
_SAY_EVERY_SECONDS: Final = 60.0
_REPLY_SECONDS: Final = 60.0
"""How long a reply is tried. A caller who still waits then finds the terminal state when asking again."""
_ENTRY_BYTES: Final = 4096
"""What a record of an entry's command may have beyond the entry itself: headers and the key, in bytes."""

_log = get_logger("headrace.router.commands")


class CommandTooLarge(RecordTooLarge):
    """Decide something smaller: the record of this command would not fit into its topic."""

    def __init__(self, command: Command, size: int, limit: int) -> None:
        super().__init__(f"a record of {size} bytes for {command.topic}, which takes {limit}")
        self.command = command
        self.size = size
        self.limit = limit


@dataclass(frozen=True, slots=True)
class Publishers:
    """Where commands go.

    Attributes:
        journal: Shares its producer with the journal; for terminal states.
        others: With a producer of its own, so that no trouble of other topics reaches the journal.
        limits: How large records may be.
        tokens: Makes the tokens of replies; None makes none.
        weight_of: The weight of a tenant's attempts.
    """

    journal: Publisher
    others: Publisher
    limits: TopicLimits
    tokens: ReplyTokens | None = None
    weight_of: Callable[[str], int] = all_equal

    def of(self, kind: CommandKind) -> Publisher:
        return self.journal if kind is CommandKind.COMPLETE else self.others

    def publication(self, entry: JournalEntry, command: Command) -> Publication:
        """What a command stands for, as `decide.publications` has it."""
        return publication(entry, command, self.tokens, self.weight_of)


@dataclass(slots=True)
class _Entry:
    """An entry whose commands are being published."""

    offset: int
    left: int
    completing: int
    published: Callable[[], None]
    completed: Callable[[], None]
    completed_at: int | None = None


@dataclass(slots=True)
class Waiting:
    """A command on its way.

    Attributes:
        record: None as long as the registry has lost its schema.
        size: Of the record in bytes; without one, about.
        journaled: Of a terminal state, in place of which a smaller one may have to be decided.
        alone: Whether it is sent in a batch of its own.
        kept: Whether it has failed before.
    """

    kind: CommandKind
    task_id: str
    attempt: int
    topic: str
    publication: Publication
    record: ProducerRecord | None
    size: int
    entry: _Entry
    since: float
    journaled: JournalEntry | None = None
    alone: bool = False
    kept: bool = False
    tries: int = 0


class PartitionCommands:
    """The commands of one partition.

    Args:
        bytes_limit: When so many bytes are on their way or wait, the partition is `full`.
        prove: Appends a checkpoint, whose acknowledgement shows that this is still the owner.
        due: Whether an attempt is still the task's newest and running.
        smaller: Decides something smaller than a record that is too large; returns whether it could. May raise
            Overloaded: ask again later.
        fail: Called when this partition must be taken over again.
    """

    def __init__(
        self,
        *,
        partition: int,
        journal: Journal,
        publishers: Publishers,
        pending: PendingAppends,
        metrics: RouterMetrics,
        monotonic: Callable[[], float],
        publish_within: float,
        bytes_limit: int,
        prove: Callable[[], Awaitable[int]],
        due: Callable[[str, int], bool],
        smaller: Callable[[Waiting, int], bool],
        fail: Callable[[BaseException], None],
    ) -> None:
        self._partition = partition
        self._journal = journal
        self._publishers = publishers
        self._pending = pending
        self._metrics = metrics
        self._monotonic = monotonic
        self._publish_within = publish_within
        self._bytes_limit = bytes_limit
        self._prove = prove
        self._due = due
        self._smaller = smaller
        self._fail = fail
        self._bytes = 0
        self._reply_bytes = 0
        self._outstanding = 0
        # What is to be sent in the next round, and how many in all have failed once.
        self._waiting: list[Waiting] = []
        self._kept: Counter[CommandKind] = Counter()
        self._kept_since = 0.0
        self._reasons: dict[str, str] = {}
        self._said: dict[str, float] = {}
        self._retrying: asyncio.Task[None] | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopped = False

    @property
    def full(self) -> bool:
        """Whether so much waits that the partition must take no more input."""
        return self._bytes >= self._bytes_limit

    @property
    def idle(self) -> bool:
        return self._outstanding == 0

    @property
    def waiting(self) -> Mapping[CommandKind, int]:
        """How many commands could not be published yet, by kind."""
        return self._kept

    def trouble(self, after_seconds: float = 0.0) -> str | None:
        """What has kept commands from being published for at least so long; None if nothing has."""
        if not self._kept or self._monotonic() - self._kept_since < after_seconds:
            return None
        counts = ", ".join(f"{count} {kind.value}" for kind, count in sorted(self._kept.items()))
        reasons = "; ".join(dict.fromkeys(self._reasons.values()))
        full = f", {self._bytes} bytes: no more input is taken" if self.full else ""
        return f"partition {self._partition}: not published yet: {counts}{full} ({reasons})"

    def check(self, entry: JournalEntry, size: int) -> None:
        """Raise CommandTooLarge if the entry, of this size in bytes, has an attempt or a terminal state that would not
        fit into its topic."""
        for command in entry.commands:
            if command.kind not in (CommandKind.DISPATCH, CommandKind.COMPLETE):
                continue
            # A record holds nothing that its entry does not hold, so it is hardly ever made just to be measured.
            publisher = self._publishers.of(command.kind)
            limit = self._publishers.limits.of(publisher.topic(command.topic))
            if size + _ENTRY_BYTES > limit:
                needed = size_of(publisher.record_of(self._publishers.publication(entry, command)))
                if needed > limit:
                    raise CommandTooLarge(command, needed, limit)

    def publish(
        self, offset: int, entry: JournalEntry, *, completed: Callable[[], None], published: Callable[[], None]
    ) -> None:
        """Publish the commands of an acknowledged entry.

        `completed` is called once its terminal state, if it has one, is published or waits; `published` once everything
        is published or left out.
        """
        ends = [command for command in entry.commands if command.kind is CommandKind.COMPLETE]
        of = _Entry(offset, len(entry.commands), len(ends), published, completed)
        for command in entry.commands:
            if (item := self._made(of, entry, command)) is not None:
                self._send(item)
        if not ends:
            completed()

    def adopt(self, commands: Iterable[tuple[int, JournalEntry, tuple[Command, ...]]]) -> None:
        """Publish what an earlier owner may not have published: the commands of its entries, with their offsets."""
        for offset, entry, left in commands:
            of = _Entry(offset, len(left), 0, _nothing, _nothing)
            for command in left:
                if (item := self._made(of, entry, command)) is not None:
                    # Not the first time, as far as is known.
                    item.tries = 1
                    self._count(item, 1)
                    self._waiting.append(item)
        self._retry(0.0)

    async def settle(self, seconds: float) -> None:
        """Wait until everything is published, but not longer than this."""
        if self._outstanding:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._idle.wait()

    def stop(self) -> None:
        """Send nothing any more."""
        self._stopped = True
        if self._retrying is not None:
            self._retrying.cancel()
        self._idle.set()

    def _made(self, of: _Entry, entry: JournalEntry, command: Command) -> Waiting | None:
        kind = command.kind
        publisher = self._publishers.of(kind)
        record: ProducerRecord | None = None
        try:
            published = self._publishers.publication(entry, command)
            with contextlib.suppress(TransientError):
                record = publisher.record_of(published)
        except Exception:
            if kind is CommandKind.COMPLETE:
                raise
            # A defect. The task does not wait for it: its attempt times out, its reply is best effort.
            self._metrics.left_out(kind, "defect")
            _log.exception(
                "a command cannot be made into a record", partition=self._partition, command=command.event_id
            )
            self._count_down(of)
            return None
        return Waiting(
            kind=kind, task_id=entry.task_id, attempt=command.attempt, topic=publisher.topic(command.topic),
            publication=published, record=record, size=_about(entry) if record is None else size_of(record), entry=of,
            since=self._monotonic(),
            journaled=entry if kind is CommandKind.COMPLETE else None,
        )  # fmt: skip

    def _send(self, item: Waiting) -> None:
        """Send a command for the first time."""
        self._idle.clear()
        self._count(item, 1)
        if item.kind is CommandKind.REPLY and self._reply_bytes > self._bytes_limit:
            self._leave_out(item, "no room")
            return
        self._send_again(item)

    def _send_again(self, item: Waiting) -> asyncio.Future[RecordMetadata] | None:
        item.tries += 1
        publisher = self._publishers.of(item.kind)
        try:
            record = item.record
            if record is None:
                record = publisher.record_of(item.publication)
                self._replace(item, record)
            if item.kind is CommandKind.DISPATCH and item.tries > 1:
                record = replace(record, headers=(*record.headers, (REPEATED, b"1")))
            sent = publisher.send_record(record)
        except (Overloaded, TransientError) as error:
            self._failed(item, error)
            return None
        if item.kind is CommandKind.COMPLETE:
            self._pending.add(self._partition, sent)
        sent.add_done_callback(lambda done: self._answered(item, done))
        return sent

    def _answered(self, item: Waiting, done: asyncio.Future[RecordMetadata]) -> None:
        error = asyncio.CancelledError() if done.cancelled() else done.exception()
        if self._stopped:
            return
        if error is not None:
            self._failed(item, error)
            return
        # A repeated terminal state stands behind those of later entries, whose offsets it must not hide.
        first = item.kind is CommandKind.COMPLETE and item.tries == 1
        self._settled(item, done.result().offset if first else None)

    def _failed(self, item: Waiting, error: BaseException) -> None:
        kind = item.kind
        if kind is CommandKind.COMPLETE and not isinstance(error, RecordRefused | TransientError | Overloaded):
            # Only whoever takes the partition over can find out whether it is there, before anything comes after it.
            place = item.entry.offset
            self._fail(self._journal.fence(f"the terminal state of the entry at {place} may be published: {error}"))
            return
        if (
            isinstance(error, RecordTooLarge)
            and item.record is not None
            and (item.alone or not self._publishers.limits.fits(item.record))
        ):
            self._too_large(item, error)
            return
        # A batch can be too large though none of its records is.
        item.alone = item.alone or isinstance(error, RecordTooLarge)
        if kind is CommandKind.REPLY and (
            isinstance(error, RecordRefused) or self._monotonic() - item.since >= _REPLY_SECONDS
        ):
            self._leave_out(item, str(error))
            return
        self._keep(item, error)

    def _too_large(self, item: Waiting, error: BaseException) -> None:
        match item.kind:
            case CommandKind.REPLY | CommandKind.CANCEL:
                self._leave_out(item, "too large")
                return
            case CommandKind.AUDIT:
                try:
                    record = self._publishers.others.record_of(shortened(item.publication))
                except TransientError as lost:
                    self._keep(item, lost)
                    return
                if size_of(record) >= item.size:
                    _log.error("an audit record does not fit into its topic", task=item.task_id, reason=str(error))
                    self._leave_out(item, "too large")
                    return
                self._replace(item, record)
                item.alone = False
            case CommandKind.DISPATCH | CommandKind.COMPLETE:
                limit = min(self._publishers.limits.of(item.topic), item.size - 1)
                try:
                    if self._smaller(item, limit):
                        self._settled(item, None)
                        return
                except (Overloaded, TransientError) as overload:
                    error = overload
        self._keep(item, error)

    def _keep(self, item: Waiting, error: BaseException) -> None:
        if item.kind is CommandKind.COMPLETE:
            self._completed(item)
        if not item.kept:
            item.kept = True
            if not self._kept:
                self._kept_since = self._monotonic()
            self._kept[item.kind] += 1
        reason = str(error)
        self._reasons[item.topic] = reason
        now = self._monotonic()
        if now - self._said.get(item.topic, -_SAY_EVERY_SECONDS) >= _SAY_EVERY_SECONDS:
            self._said[item.topic] = now
            _log.warning("commands cannot be published and are kept", partition=self._partition,
                         topic=item.topic, reason=reason)  # fmt: skip
        self._waiting.append(item)
        self._retry(_FIRST_PAUSE_SECONDS)

    def _retry(self, pause: float) -> None:
        if self._waiting and not self._stopped and self._retrying is None:
            self._idle.clear()
            self._retrying = asyncio.create_task(self._rounds(pause))

    async def _rounds(self, pause: float) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(pause)
                left = await self._round()
                pause = min(max(pause * 2, _FIRST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS) if left else 0.0
        except StreamsError as error:
            self._fail(error)
        except Exception as error:  # noqa: BLE001 - a defect: without these rounds nothing would be published
            _log.exception("publishing again failed", partition=self._partition)
            self._fail(self._journal.fence(f"publishing again failed: {type(error).__name__}"))
        finally:
            self._retrying = None

    async def _round(self) -> bool:
        """Try everything that waits once; returns whether something still waits. Raises Fenced."""
        asked = self._monotonic()
        try:
            await self._prove()
        except Overloaded:
            return True
        if self._monotonic() - asked > self._publish_within:
            raise self._journal.fence("the journal answered too late to publish again")
        items, self._waiting = self._waiting, []
        sent = []
        single = []
        for item in items:
            if item.kind is CommandKind.DISPATCH and not self._due(item.task_id, item.attempt):
                self._settled(item, None)
            elif item.alone:
                single.append(item)
            elif (future := self._send_again(item)) is not None:
                sent.append(future)
        for item in single:
            if self._monotonic() - asked > self._publish_within:
                self._waiting.append(item)
            elif (future := self._send_again(item)) is not None:
                await asyncio.wait([future])
        if sent:
            await asyncio.wait(sent)
            # Their callbacks run first.
            await asyncio.sleep(0)
        return bool(self._waiting)

    def _leave_out(self, item: Waiting, reason: str) -> None:
        self._metrics.left_out(item.kind, "too_large" if reason == "too large" else "refused")
        _log.debug("a command is left out", partition=self._partition, task=item.task_id, reason=reason)
        self._settled(item, None)

    def _settled(self, item: Waiting, completed_at: int | None) -> None:
        self._count(item, -1)
        if item.kept:
            self._kept[item.kind] -= 1
            self._kept += Counter()
            if not self._kept:
                self._reasons.clear()
                self._said.clear()
        if item.kind is CommandKind.COMPLETE:
            item.entry.completed_at = completed_at
            self._completed(item)
        self._count_down(item.entry)
        if self._outstanding == 0:
            self._idle.set()

    def _replace(self, item: Waiting, record: ProducerRecord) -> None:
        self._count(item, -1)
        item.record, item.size = record, size_of(record)
        self._count(item, 1)

    def _count(self, item: Waiting, sign: int) -> None:
        self._outstanding += sign
        if item.kind is CommandKind.REPLY:
            self._reply_bytes += sign * item.size
        else:
            self._bytes += sign * item.size

    def _count_down(self, entry: _Entry) -> None:
        entry.left -= 1
        if entry.left == 0:
            self._journal.published(entry.offset, entry.completed_at)
            entry.published()

    @staticmethod
    def _completed(item: Waiting) -> None:
        """Its entry no longer counts as in flight: the terminal state is published, or waits here."""
        if item.entry.completing:
            item.entry.completing -= 1
            if item.entry.completing == 0:
                item.entry.completed()


def _nothing() -> None: ...


def _about(entry: JournalEntry) -> int:
    """The size of a record of this entry's commands in bytes, judged by the texts that it may hold."""
    state = entry.state
    if state is None:
        return _ENTRY_BYTES
    answer = state.result.answer if state.result is not None else None
    messages = state.task.messages if state.task is not None else ()
    texts = [each.content.data for each in messages] + ([] if answer is None else [answer.data])
    return _ENTRY_BYTES + sum(len(text) for text in texts)
