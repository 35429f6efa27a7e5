"""Live spend: sums of usage in Faust's tumbling windows, published to `spend.windows`.

A view for people, rebuilt from its changelog and the topic; billing rests on the ledger alone. Yet it is exact:
`every_record` reads each record of this member's partitions, past Faust; usage is added up by tenant and window, and
each window is changed once for all usage of a piece; its value holds the offset of the last record added, so that one
that is read again after a crash is not added twice; and a position is committed once everything below it is published.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from faust.streams import _current_event
from faust.types import TP
from headrace_contracts.codec import Codec
from headrace_contracts.errors import ContractError, Origin, RegistryUnavailable, SchemaNotCached
from headrace_contracts.events import Outcome, UsageRecorded
from headrace_contracts.groups import LIVE_WINDOWS
from headrace_contracts.topics import SPEND_WINDOWS, USAGE_RECORDED
from headrace_models.prices import PriceBook
from headrace_runtime.logging import get_logger
from headrace_streams.dead_letters import described
from headrace_streams.errors import RecordRefused, StreamsError, TransientError
from headrace_streams.ports import Log, PartitionReader
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.records import NewTopic, Record

from headrace_cost_accountant.adapters.every_record import EveryRecord, RecordHandling
from headrace_cost_accountant.adapters.windows_faust import SUSPENDED_SECONDS, event_of, membership_of, new_app
from headrace_cost_accountant.decide.booking import Implausible, cost_of, meant_time
from headrace_cost_accountant.decide.windows import LENGTHS, Live, Spend, add_once, spend_windows, window_start
from headrace_cost_accountant.metrics import LedgerMetrics

_KEPT_WINDOWS: Final = {60: 60, 3_600: 48, 86_400: 8}
"""How many windows of each length stay in memory; a usage event older than these changes none."""
_START_SECONDS: Final = 120.0
_STOP_SECONDS: Final = 10.0
_CANCEL_AGAIN_SECONDS: Final = 0.5
_DAY_SECONDS: Final = 86_400
_WRITE_SECONDS: Final = 5.0
"""How often changed windows are written into Faust's tables, which costs more than all else that is done for them. What
is written less often is read again after a crash, and added up once more."""
_REGISTRY_PAUSE_SECONDS: Final = 0.5
_REGISTRY_PATIENCE_SECONDS: Final = 10.0
"""How long a usage event of an unknown schema holds all others back while the registry does not answer."""
_LONGEST_TENANT: Final = 1_000
"""Characters. Each of a tenant's windows is a record with its name, which must fit."""

WindowKey = tuple[str, int, int]
"""Tenant, length in seconds, start in milliseconds since the epoch."""

_log = get_logger("headrace.costs.windows")


class WindowsEnded(Exception):
    """The app stopped unrequested and must be restarted."""


@dataclass(frozen=True, slots=True)
class WindowsTools:
    """Dependencies of the app.

    Attributes:
        kafka: librdkafka properties of the connection.
        log: Creates the changelogs, and reads usage.
        replication: Replication factor of the changelogs.
        publish_seconds: How often usage is read, and changed windows are published.
        clock: Milliseconds since the epoch.
    """

    kafka: Mapping[str, str]
    log: Log
    codec: Codec
    prices: PriceBook
    publisher: Publisher
    measures: LedgerMetrics
    replication: int
    publish_seconds: float
    clock: Callable[[], int]


class WindowsApp:
    """One run of the Faust app."""

    def __init__(self, tools: WindowsTools) -> None:
        self._tools = tools
        self._live: dict[str, Live] = {}
        self._changed: set[str] = set()
        # Values of windows that the tables do not hold yet.
        self._unwritten: dict[WindowKey, list[int]] = {}
        self._tables: dict[int, Any] = {}
        self._admin = tools.log.admin()
        self._usage_topic = tools.codec.topic_prefix + USAGE_RECORDED.name
        self._committed: dict[Any, int] = {}
        # Since when the registry has not answered.
        self._unanswered_since: float | None = None

    async def run(self, on_started: Callable[[], None]) -> None:
        """Runs until cancelled. Raises what ended it: WindowsEnded, NotForFaust, TimeoutError, any error of Faust's."""
        reader = self._tools.log.reader()
        try:
            await self._run(self._app(await self._prepare_changelogs()), reader, on_started)
        finally:
            await reader.close()

    async def _run(self, app: Any, reader: PartitionReader, on_started: Callable[[], None]) -> None:
        # What is unwritten in the end of a membership is not committed, and read again by whoever comes next.
        handling = RecordHandling(self._decode, self._add, self._unwritten.clear)
        membership = membership_of(app, self._usage_topic)
        records = EveryRecord(self._usage_topic, self._app_id, handling, self._admin, reader, membership)
        try:
            async with asyncio.timeout(_START_SECONDS):
                await app.start()
            on_started()
            await self._until_it_ends(app, records)
        finally:
            await self._stop(app)

    async def _until_it_ends(self, app: Any, records: EveryRecord[UsageRecorded | None]) -> None:
        tasks = [
            asyncio.create_task(app.wait_until_stopped()),
            asyncio.create_task(self._keep_publishing(app, records)),
            asyncio.create_task(self._keep_reading(records)),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for ended in done:
                ended.result()
        finally:
            # A commit in Faust may swallow a cancellation; the loop that goes on after it would never end.
            while running := [task for task in tasks if not task.done()]:
                for task in running:
                    task.cancel()
                await asyncio.wait(running, timeout=_CANCEL_AGAIN_SECONDS)
            await asyncio.gather(*tasks, return_exceptions=True)
        raise WindowsEnded("Faust stopped unrequested") from app.crash_reason

    async def _stop(self, app: Any) -> None:
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await app.stop()
        except TimeoutError:
            _log.warning("Faust did not stop in time and is abandoned", seconds=_STOP_SECONDS)

    async def _prepare_changelogs(self) -> int:
        """Creates the changelogs. Returns their number of partitions, that of usage.recorded.

        Raises TransientError, RecordRefused. Faust would create them as well, but fail on its first records, since its
        metadata does not include them yet.
        """
        partitions = (await self._admin.partition_counts([self._usage_topic]))[self._usage_topic]
        topics = []
        for seconds in LENGTHS:
            retention_ms = (_kept_seconds(seconds) + _DAY_SECONDS) * 1000
            # A window's key never recurs, so compaction alone would retain every window forever.
            config = (("cleanup.policy", "compact,delete"), ("retention.ms", str(retention_ms)))
            name = f"{self._app_id}-{_table_name(seconds)}-changelog"
            topics.append(NewTopic(name, partitions, self._tools.replication, config))
        await self._admin.create_topics(topics)
        return partitions

    @property
    def _app_id(self) -> str:
        return self._tools.codec.topic_prefix + LIVE_WINDOWS.name

    def _app(self, partitions: int) -> Any:
        app: Any = new_app(self._app_id, self._tools.kafka, self._tools.replication, self._usage_topic)
        self._tables = {
            seconds: app.Table(_table_name(seconds), default=list, partitions=partitions).tumbling(
                seconds, expires=_kept_seconds(seconds)
            )
            for seconds in LENGTHS
        }
        return app

    async def _keep_reading(self, records: EveryRecord[UsageRecorded | None]) -> None:
        while True:
            # Usage that has gathered meanwhile changes each of its windows once.
            await self._pause()
            try:
                await records.read()
            except TransientError as error:
                _log.warning("usage cannot be read, retrying", reason=str(error))

    async def _pause(self) -> None:
        """Raises WindowsEnded if it took so long that the group may have gone on without this process.

        Faust may not know yet, and what is written now would overwrite the work of whoever has the partitions.
        """
        clock = asyncio.get_running_loop().time
        due = clock() + self._tools.publish_seconds
        await asyncio.sleep(self._tools.publish_seconds)
        if clock() > due + SUSPENDED_SECONDS:
            raise WindowsEnded("the process was suspended")

    def _add(self, partition: int, piece: Sequence[tuple[Record, UsageRecorded | None]]) -> None:
        additions: dict[WindowKey, list[tuple[int, tuple[int, ...]]]] = {}
        for record, usage in piece:
            counted = None if usage is None else self._counted(record, usage)
            if usage is None or counted is None:
                self._tools.measures.windows_passed_over.inc()
                continue
            starts, numbers = counted
            for seconds, start in zip(LENGTHS, starts, strict=True):
                additions.setdefault((usage.tenant, seconds, start), []).append((record.offset, numbers))
        now_ms = self._tools.clock()
        for key, added in additions.items():
            tenant, seconds, start = key
            if start + _kept_seconds(seconds) * 1000 <= now_ms:
                continue
            held = self._unwritten.get(key)
            if held is None:
                held = self._window(key).value(None)
            value = add_once(held, partition, added)
            if value is not held:
                self._unwritten[key] = value
            live = self._live.get(tenant, Live({}))
            self._live[tenant] = live.with_window(seconds, start, Spend(*value[2:]))
            self._changed.add(tenant)

    def _window(self, key: WindowKey) -> Any:
        tenant, seconds, start = key
        return self._tables[seconds].relative_to(start / 1000)[tenant]

    def _write(self, app: Any) -> None:
        """Write the windows that have changed into Faust's tables, each once. Only in the membership that added."""
        for key, value in self._unwritten.items():
            event = event_of(app, self._usage_topic, value[0], value[1])
            # Faust sends a change of a table to the partition of the event that is being handled.
            _current_event.set(weakref.ref(event))
            self._window(key).apply(lambda _, new: new, value, event)
        self._unwritten.clear()

    def _counted(self, record: Record, usage: UsageRecorded) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """Starts of the windows of a usage event, by LENGTHS, and the numbers of its Spend; None to pass it over."""
        if len(usage.tenant) > _LONGEST_TENANT:
            return None
        try:
            cost = cost_of(usage, self._tools.prices)
            time_ms = meant_time(usage.recorded_at, record.timestamp_ms)
            starts = tuple(window_start(time_ms, seconds) for seconds in LENGTHS)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is about this record
            # The ledger dead-letters the event.
            if not isinstance(error, Implausible):
                _log.error("skipping a usage event", partition=record.partition, offset=record.offset,
                           reason=described(error))  # fmt: skip
            return None
        spend = Spend(
            # What may have been billed is in the reports only: here it could not be taken back.
            executions=0 if usage.outcome is Outcome.LOST else 1,
            input_tokens=usage.usage.input_tokens,
            output_tokens=usage.usage.output_tokens,
            cached_input_tokens=usage.usage.cached_input_tokens,
            searches=usage.usage.searches,
            cost_nanodollars=cost.nanodollars,
            cache_write_5m_tokens=usage.usage.cache_write_5m_tokens,
            cache_write_1h_tokens=usage.usage.cache_write_1h_tokens,
        )
        return starts, spend.values()

    async def _decode(self, record: Record) -> UsageRecorded | None:
        origin = Origin(record.topic, record.partition, record.offset)
        while True:
            try:
                return self._tools.codec.decode(UsageRecorded, record.value, origin)
            except SchemaNotCached as missing:
                looked_up = self._tools.codec.fetch(missing.schema_id, origin)
                looked_up.add_done_callback(self._looked_up)
                if not await self._may_wait(looked_up):
                    _log.warning("live windows skip a usage event: the registry does not answer", origin=str(origin))
                    return None
            except Exception as error:  # noqa: BLE001 - whatever it is, it is about this record
                _log.debug("skipping a usage event", origin=str(origin), reason=described(error))
                return None

    async def _may_wait(self, looked_up: asyncio.Future[None]) -> bool:
        """Wait for the registry; False once it has been away for so long that the other events shall go on."""
        since = self._unanswered_since
        if since is not None and asyncio.get_running_loop().time() - since > _REGISTRY_PATIENCE_SECONDS:
            return False
        try:
            await looked_up
        except RegistryUnavailable:
            await asyncio.sleep(_REGISTRY_PAUSE_SECONDS)
        return True

    def _looked_up(self, lookup: asyncio.Future[None]) -> None:
        if lookup.cancelled():
            return
        if lookup.exception() is None:
            self._unanswered_since = None
        elif self._unanswered_since is None:
            self._unanswered_since = asyncio.get_running_loop().time()

    async def _keep_publishing(self, app: Any, records: EveryRecord[UsageRecorded | None]) -> None:
        clock = asyncio.get_running_loop().time
        written_at, positions = clock(), dict[int, int]()
        while True:
            await self._pause()
            present = records.positions()
            if not present:
                positions = {}
            elif clock() - written_at >= _WRITE_SECONDS:
                self._write(app)
                written_at, positions = clock(), present
            changed, self._changed = self._changed, set()
            if all(await asyncio.gather(*map(self._publish, changed))):
                await self._commit(app, positions)

    async def _commit(self, app: Any, positions: Mapping[int, int]) -> None:
        """Commit where the next life begins: all below is in the changelogs, which this writes first, and published."""
        names = {TP(self._usage_topic, partition): offset for partition, offset in positions.items()}
        moved = {name: offset for name, offset in names.items() if self._committed.get(name) != offset}
        if moved and await app.consumer._commit_offsets(moved):
            self._committed |= moved

    async def _publish(self, tenant: str) -> bool:
        """Publish a tenant's windows. False if this must be tried again."""
        now_ms = self._tools.clock()
        publication = Publication(
            spec=SPEND_WINDOWS,
            event=spend_windows(tenant, self._live[tenant], now_ms),
            event_id=f"{tenant}/{now_ms}",
            key=tenant.encode(),
            tenant=tenant,
            time_ms=now_ms,
        )
        try:
            await self._tools.publisher.send(publication)
        except (RecordRefused, ContractError) as error:
            _log.error("the live windows of a tenant cannot be published", reason=described(error))
        except StreamsError as error:
            _log.warning("live windows could not be published, retrying", reason=str(error))
            self._changed.add(tenant)
            return False
        else:
            self._tools.measures.windows_published.inc()
        return True


def _table_name(seconds: int) -> str:
    return f"spend-{seconds}s"


def _kept_seconds(seconds: int) -> int:
    return seconds * _KEPT_WINDOWS[seconds]
