"""Live spend: Faust sums up usage in tumbling windows and publishes them to `spend.windows`.

A view for people, rebuilt from its changelog and the topic; billing rests on the ledger alone. Yet it is exact:
`every_record` adds what Faust drops; each window's value holds the offset of the last record added, so that one that is
read again after a crash is not added twice; and a position is committed once everything below it is published.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import faust
from faust.streams import _current_event
from faust.types import TP
from faust.types.tuples import Message
from headrace_contracts.codec import Codec
from headrace_contracts.errors import ContractError, Origin, RegistryUnavailable, SchemaNotCached
from headrace_contracts.events import UsageRecorded
from headrace_contracts.groups import LIVE_WINDOWS
from headrace_contracts.topics import SPEND_WINDOWS, USAGE_RECORDED
from headrace_models.prices import PriceBook
from headrace_runtime.logging import get_logger
from headrace_streams.dead_letters import described
from headrace_streams.errors import RecordRefused, StreamsError, TransientError
from headrace_streams.ports import Log, PartitionReader
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.records import NewTopic, Record

from headrace_cost_accountant.adapters import tolerant_fetching
from headrace_cost_accountant.adapters.every_record import EveryRecord, RecordHandling
from headrace_cost_accountant.adapters.faust_credentials import credentials_of
from headrace_cost_accountant.decide.booking import Implausible, cost_of, meant_time
from headrace_cost_accountant.decide.windows import LENGTHS, Live, Spend, spend_windows, window_start
from headrace_cost_accountant.metrics import LedgerMetrics

_KEPT_WINDOWS: Final = {60: 60, 3_600: 48, 86_400: 8}
"""How many windows of each length stay in memory; a usage event older than these changes none."""
_SESSION_SECONDS: Final = 10.0
_LINGER_SECONDS: Final = 0.25
_START_SECONDS: Final = 120.0
_STOP_SECONDS: Final = 10.0
_CANCEL_AGAIN_SECONDS: Final = 0.5
_DAY_SECONDS: Final = 86_400
_REGISTRY_PAUSE_SECONDS: Final = 0.5
_REGISTRY_PATIENCE_SECONDS: Final = 10.0
"""How long a usage event of an unknown schema holds all others back while the registry does not answer."""
_LOOK_SECONDS: Final = 2.0
"""How often the ends of partitions are compared with what was added."""
_LONGEST_TENANT: Final = 1_000
"""Characters. Each of a tenant's windows is a record with its name, which must fit."""

_log = get_logger("headrace.costs.windows")


class WindowsEnded(Exception):
    """The app stopped unrequested and must be restarted."""


@dataclass(frozen=True, slots=True)
class WindowsTools:
    """Dependencies of the app.

    Attributes:
        kafka: librdkafka properties of the connection.
        log: Creates the changelogs, and reads what Faust drops.
        replication: Replication factor of the changelogs.
        publish_seconds: How often changed windows are published.
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


class _App(faust.App):
    async def on_first_start(self) -> None:
        """Creates no directories for tables: these are in memory, and the file system may be read-only."""


class WindowsApp:
    """One run of the Faust app."""

    def __init__(self, tools: WindowsTools) -> None:
        self._tools = tools
        self._live: dict[str, Live] = {}
        self._changed: set[str] = set()
        self._tables: dict[int, Any] = {}
        self._admin = tools.log.admin()
        self._usage_topic = tools.codec.topic_prefix + USAGE_RECORDED.name
        self._committed: dict[Any, int] = {}
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Since when the registry has not answered.
        self._unanswered_since: float | None = None

    async def run(self, on_started: Callable[[], None]) -> None:
        """Runs until cancelled. Raises what ended it: WindowsEnded, NotForFaust, TimeoutError, any error of Faust's."""
        tolerant_fetching.install(self._skipped)
        reader = self._tools.log.follower()
        try:
            await self._run(self._app(await self._prepare_changelogs()), reader, on_started)
        finally:
            await reader.close()

    async def _run(self, app: Any, reader: PartitionReader, on_started: Callable[[], None]) -> None:
        records = EveryRecord(
            self._usage_topic,
            self._app_id,
            RecordHandling(self._decode, partial(self._add, app), self._tools.measures.windows_missed.inc),
            self._admin,
            reader,
            lambda: app.consumer_generation_id if app.flow_control.is_active() else None,
        )
        self._add_agent(app, records)
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
            asyncio.create_task(self._keep_looking(app, records)),
        ]
        try:
            done, _ = await asyncio.wait([*tasks, self._failure], return_when=asyncio.FIRST_COMPLETED)
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
        servers = self._tools.kafka["bootstrap.servers"].split(",")
        app = _App(
            self._app_id,
            broker=";".join(f"kafka://{server.strip().rpartition('://')[2]}" for server in servers),
            broker_credentials=credentials_of(self._tools.kafka),
            broker_client_id=f"{self._tools.kafka.get('client.id', 'cost-accountant')}.windows",
            broker_session_timeout=_SESSION_SECONDS,
            broker_heartbeat_interval=_SESSION_SECONDS / 4,
            broker_rebalance_timeout=_SESSION_SECONDS,
            consumer_auto_offset_reset="earliest",
            store="memory://",
            autodiscover=False,
            web_enabled=False,
            topic_disable_leader=True,
            topic_replication_factor=self._tools.replication,
            value_serializer="json",
            stream_wait_empty=False,
            # Changelog records are batched: sending each by itself would cost more than the rest of its event's work.
            producer_linger=_LINGER_SECONDS,
        )
        self._tables = {
            seconds: app.Table(_table_name(seconds), default=list, partitions=partitions).tumbling(
                seconds, expires=_kept_seconds(seconds)
            )
            for seconds in LENGTHS
        }
        return app

    def _add_agent(self, app: Any, records: EveryRecord[UsageRecorded | None]) -> None:
        # Without acknowledgements Faust commits nothing: it acknowledges what it drops.
        usage = app.topic(self._usage_topic, key_serializer="raw", value_serializer="raw", acks=False)

        async def add_up(stream: Any) -> None:
            async for event in stream.events():
                message = event.message
                time_ms = round(message.timestamp * 1000)
                record = Record(message.topic, message.partition, message.offset, time_ms, message.key, message.value)
                try:
                    await records.deliver(record, message.generation_id)
                except Exception as error:  # noqa: BLE001 - passed to the caller of this run, which it ends
                    if not self._failure.done():
                        self._failure.set_exception(error)
                    # Otherwise Faust would continue with the next record.
                    await asyncio.Event().wait()

        app.agent(usage, name="add-up-usage")(add_up)

    async def _keep_looking(self, app: Any, records: EveryRecord[UsageRecorded | None]) -> None:
        def partitions() -> Collection[int]:
            # Faust reads a partition once its tables are restored; what is added before would be overwritten.
            if app.rebalancing or app.in_recovery:
                return ()
            return {name.partition for name in app.consumer._active_partitions if name.topic == self._usage_topic}

        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                await records.look(partitions)
            except TransientError as error:
                _log.warning("the ends of usage.recorded are unknown, retrying", reason=str(error))

    def _add(self, app: Any, record: Record, usage: UsageRecorded | None) -> None:
        if usage is None or len(usage.tenant) > _LONGEST_TENANT:
            self._tools.measures.windows_passed_over.inc()
            return
        now_ms = self._tools.clock()
        try:
            cost = cost_of(usage, self._tools.prices)
            time_ms = meant_time(usage.recorded_at, record.timestamp_ms)
            starts = {seconds: window_start(time_ms, seconds) for seconds in self._tables}
        except Exception as error:  # noqa: BLE001 - whatever it is, it is about this record
            # The ledger dead-letters the event.
            if not isinstance(error, Implausible):
                _log.error("skipping a usage event", partition=record.partition, offset=record.offset,
                           reason=described(error))  # fmt: skip
            self._tools.measures.windows_passed_over.inc()
            return
        spend = Spend(
            executions=1,
            input_tokens=usage.usage.input_tokens,
            output_tokens=usage.usage.output_tokens,
            cached_input_tokens=usage.usage.cached_input_tokens,
            searches=usage.usage.searches,
            cost_nanodollars=cost.nanodollars,
            cache_write_5m_tokens=usage.usage.cache_write_5m_tokens,
            cache_write_1h_tokens=usage.usage.cache_write_1h_tokens,
        )
        event = _event_of(app, record)
        # Faust sends a change of a table to the partition of the event that is being handled.
        _current_event.set(weakref.ref(event))
        addition = [record.partition, record.offset, *spend.values()]
        for seconds, table in self._tables.items():
            start = starts[seconds]
            if start + _kept_seconds(seconds) * 1000 <= now_ms:
                continue
            window = table.relative_to(time_ms / 1000)[usage.tenant]
            window.apply(add_once, addition, event)
            _, _, *sums = window.value(event)
            held = self._live.get(usage.tenant, Live({}))
            self._live[usage.tenant] = held.with_window(seconds, start, Spend(*sums))
            self._changed.add(usage.tenant)

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

    def _skipped(self, topic: str, partition: int, first: int, end: int) -> None:
        self._tools.measures.windows_skipped.inc(end - first)

    async def _keep_publishing(self, app: Any, records: EveryRecord[UsageRecorded | None]) -> None:
        while True:
            await asyncio.sleep(self._tools.publish_seconds)
            positions = records.positions()
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


def _event_of(app: Any, record: Record) -> Any:
    """The record as Faust's tables want it."""
    place = (record.topic, record.partition, record.offset)
    return app.create_event(None, None, None, Message(*place, record.timestamp_ms / 1000, 0, None, None, None, None))


def _table_name(seconds: int) -> str:
    return f"spend-{seconds}s"


def _kept_seconds(seconds: int) -> int:
    return seconds * _KEPT_WINDOWS[seconds]


def add_once(held: list[int], addition: list[int]) -> list[int]:
    """A window's value with one more record added, unless it includes that record already.

    Both are partition, offset, and the numbers of a Spend; an empty `held` is a new window.
    """
    if not held:
        return addition
    partition, offset, *sums = addition
    if held[0] == partition and held[1] >= offset:
        return held
    return [partition, offset, *(Spend(*held[2:]) + Spend(*sums)).values()]
