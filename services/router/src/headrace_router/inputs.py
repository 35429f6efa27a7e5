"""Input records: decoded, and given to the router of their partition. Nothing here waits except `InputTaker.take`."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from headrace_contracts.codec import Codec
from headrace_contracts.errors import Origin, RegistryUnavailable, SchemaNotCached, UnreadableValue
from headrace_contracts.events import AttemptFinished, Place, TaskCancelled, TaskSubmitted
from headrace_contracts.headers import header, traceparent
from headrace_contracts.topics import ATTEMPTS_FINISHED_CLOUD, TopicSpec
from headrace_runtime.logging import get_logger
from headrace_runtime.producers import KeyNotHereYet, ProducerRefused, ProducerVerification
from headrace_streams.dead_letters import DeadLetters, described
from headrace_streams.errors import Overloaded, StreamsError, TransientError
from headrace_streams.journal import EntryTooLarge
from headrace_streams.records import Record

from headrace_router.decide.admission import Inadmissible, admitted_cancellation, admitted_task, event_id_of
from headrace_router.decide.model import CAUSES, AttemptEnded, Cancelled, StoredAnswer, Submitted
from headrace_router.input_logs import INPUTS
from headrace_router.metrics import RouterMetrics
from headrace_router.partition import Input, PartitionRouter, ReportDisbelieved

_MOST_FORESEEN: Final = 2_000
"""Tasks whose stored answers are asked for before their turn has come; a poll's records, and as many of others."""

_log = get_logger("headrace.router")

_Event = Submitted | Cancelled | AttemptEnded


@dataclass(frozen=True, slots=True)
class _Foreseen:
    record: Record
    event: Submitted
    asked: asyncio.Future[StoredAnswer | None]


class PartitionUnusable(Exception):
    """Take the partition over again: its journal is fenced, or a journaled state cannot be decoded."""


class InputTaker:
    """Decides about input records, or keeps them in the dead-letter topic of their own.

    Args:
        clock: Milliseconds since the epoch.
        producers: Decides whose tasks and cancellations to take, when they are read: what is in the journal was taken,
            and is not checked again. None takes all.
    """

    def __init__(
        self,
        codec: Codec,
        dead_letters: DeadLetters,
        metrics: RouterMetrics,
        clock: Callable[[], int],
        producers: ProducerVerification | None = None,
    ) -> None:
        self._codec = codec
        self._dead_letters = dead_letters
        self._metrics = metrics
        self._clock = clock
        self._producers = producers
        self._specs: Mapping[str, TopicSpec] = {codec.topic_prefix + spec.name: spec for spec in INPUTS}
        # Tasks that wait for a stored answer, or for those before them, by the place of their records.
        self._foreseen: OrderedDict[Origin, _Foreseen] = OrderedDict()

    def take_now(self, record: Record, router: PartitionRouter) -> bool:
        """Decide about a record if nothing has to be waited for. If this returns False, nothing has changed."""
        if router.full:
            return False
        try:
            event = self._event(record)
            if self._asks(record, event, router):
                return False
            router.handle(event, self._origin(record))
        except Exception:  # noqa: BLE001 - `take` meets the same error, and deals with it
            return False
        return True

    def foresee(self, record: Record, router: PartitionRouter) -> None:
        """Ask for what a task that has to wait for its turn will need then, so that those that wait are asked for
        together."""
        if self._specs[record.topic].record is not TaskSubmitted or _place(record) in self._foreseen:
            return
        try:
            self._asks(record, self._event(record), router)
        except Exception:  # noqa: BLE001 - `take` meets the same error, and deals with it
            return

    def _asks(self, record: Record, event: _Event, router: PartitionRouter) -> bool:
        """Ask for the stored answer to a task, if there may be one."""
        asked = router.look_up(event) if isinstance(event, Submitted) else None
        if asked is None:
            return False
        assert isinstance(event, Submitted)
        self._foreseen[_place(record)] = _Foreseen(record, event, asked)
        if len(self._foreseen) > _MOST_FORESEEN:
            self._foreseen.popitem(last=False)
        return True

    async def take(self, record: Record, router: PartitionRouter) -> Exception | None:
        """Decide about a record, or write its dead letter. Returns the error in the latter case.

        Raises Overloaded, RegistryUnavailable and the errors of appending if the caller must try again later, and
        PartitionUnusable.
        """
        await router.room()
        origin = self._origin(record)
        try:
            event = await self._complete_event(record, router)
        except (RegistryUnavailable, StreamsError):
            raise
        except Exception as error:  # noqa: BLE001 - one record must not stop the others
            if not is_foreseen(error):
                _log.error("a record cannot be read", record=str(origin), reason=described(error))
            return await self._give_up(router, record, origin, error)
        try:
            router.handle(event, origin)
        except (Overloaded, RegistryUnavailable, TransientError):
            # Nothing was appended, and nothing has changed.
            raise
        except (EntryTooLarge, ReportDisbelieved) as error:
            return await self._give_up(router, record, origin, error)
        except (StreamsError, UnreadableValue) as error:
            raise PartitionUnusable(str(error)) from error
        except Exception as error:  # noqa: BLE001 - a defect shown by one record must not stop the others
            self._metrics.failed(CAUSES[type(event)])
            _log.exception("a decision failed; the record goes to the dead letters", record=str(origin))
            return await self._give_up(router, record, origin, error)
        return None

    async def _give_up(self, router: PartitionRouter, record: Record, origin: Input, error: Exception) -> Exception:
        await self._dead_letters.keep(record, error)
        self._metrics.dead_letter(origin.topic)
        if isinstance(error, ProducerRefused) and self._producers is not None:
            self._producers.count(record, error)
        if isinstance(error, ReportDisbelieved):
            self._metrics.ignored("disbelieved")
        _log.warning("record sent to the dead letters", topic=record.topic, partition=record.partition,
                     offset=record.offset, reason=str(error))  # fmt: skip
        router.skip(origin)
        return error

    def _origin(self, record: Record) -> Input:
        return Input(
            topic=record.topic.removeprefix(self._codec.topic_prefix),
            offset=record.offset,
            event_id=event_id_of(header(record.headers, "ce_id"), f"{record.topic}/{record.partition}/{record.offset}"),
            timestamp_ms=record.timestamp_ms,
        )

    async def _complete_event(self, record: Record, router: PartitionRouter) -> _Event:
        """The event of a record, with the stored answer to its task. Raises what `_readable_event` raises."""
        foreseen = self._foreseen.pop(_place(record), None)
        # Another record can have the same place, if the topic was made anew.
        if foreseen is not None and foreseen.record is record:
            return replace(foreseen.event, stored=await foreseen.asked)
        readable = await self._readable_event(record)
        if isinstance(readable, Submitted) and (looked := router.look_up(readable)) is not None:
            return replace(readable, stored=await looked)
        return readable

    async def _readable_event(self, record: Record) -> _Event:
        """The event of a record. Raises UnreadableValue, ProducerRefused, Inadmissible, RegistryUnavailable."""
        while True:
            try:
                return self._event(record)
            except SchemaNotCached as missing:
                await self._codec.fetch(missing.schema_id, missing.origin)
            except KeyNotHereYet as unknown:
                assert self._producers is not None
                await self._producers.key_settled(unknown.key_id)

    def _event(self, record: Record) -> _Event:
        """Raises UnreadableValue, ProducerRefused, Inadmissible, SchemaNotCached, KeyNotHereYet."""
        origin = Origin(record.topic, record.partition, record.offset)
        event = self._codec.decode(self._specs[record.topic].record, record.value, origin)
        if self._producers is not None:
            self._producers.check(record, event.tenant)
        match event:
            case TaskSubmitted():
                return admitted_task(event, record.key, record.partition, traceparent(record.headers), self._clock())
            case TaskCancelled():
                return admitted_cancellation(event, self._clock())
            case AttemptFinished():
                spec = self._specs[record.topic]
                return AttemptEnded(event, Place.CLOUD if spec is ATTEMPTS_FINISHED_CLOUD else Place.LOCAL)
        raise TypeError(f"{record.topic} holds {type(event).__name__}, which the router does not know")


def _place(record: Record) -> Origin:
    return Origin(record.topic, record.partition, record.offset)


def is_foreseen(error: Exception) -> bool:
    """Whether a record is to blame for this error, and not the program."""
    return isinstance(error, (UnreadableValue, ProducerRefused, Inadmissible, EntryTooLarge, ReportDisbelieved))
