"""Input records: decoded, and given to the router of their partition. Nothing here waits except `InputTaker.take`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

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
from headrace_router.decide.model import CAUSES, AttemptEnded, Cancelled, Submitted
from headrace_router.input_logs import INPUTS
from headrace_router.metrics import RouterMetrics
from headrace_router.partition import Input, PartitionRouter, ReportDisbelieved

_log = get_logger("headrace.router")

_Event = Submitted | Cancelled | AttemptEnded


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

    def take_now(self, record: Record, router: PartitionRouter) -> bool:
        """Decide about a record if nothing has to be waited for. If this returns False, nothing has changed."""
        if router.full:
            return False
        try:
            router.handle(self._event(record), self._origin(record))
        except Exception:  # noqa: BLE001 - `take` meets the same error, and deals with it
            return False
        return True

    async def take(self, record: Record, router: PartitionRouter) -> Exception | None:
        """Decide about a record, or write its dead letter. Returns the error in the latter case.

        Raises Overloaded, RegistryUnavailable and the errors of appending if the caller must try again later, and
        PartitionUnusable.
        """
        await router.room()
        origin = self._origin(record)
        try:
            event = await self._readable_event(record)
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


def is_foreseen(error: Exception) -> bool:
    """Whether a record is to blame for this error, and not the program."""
    return isinstance(error, (UnreadableValue, ProducerRefused, Inadmissible, EntryTooLarge, ReportDisbelieved))
