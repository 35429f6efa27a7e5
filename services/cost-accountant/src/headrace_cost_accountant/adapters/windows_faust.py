"""The Faust app of the live windows: membership in a group, and windowed tables with their changelogs.

Faust reads no usage. It is subscribed to `usage.recorded`, so that its assignor gives each member the changelogs of the
same partitions, and never asks its client for a record of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import faust
from faust.transport.drivers.aiokafka import Consumer, Transport
from faust.types.tuples import Message

from headrace_cost_accountant.adapters.every_record import Membership
from headrace_cost_accountant.adapters.faust_credentials import credentials_of

_SESSION_SECONDS: Final = 10.0
_HEARTBEAT_SECONDS: Final = _SESSION_SECONDS / 4
SUSPENDED_SECONDS: Final = _SESSION_SECONDS - _HEARTBEAT_SECONDS
"""After so long without a sign of life the group may give the partitions to others."""
_LINGER_SECONDS: Final = 0.25
_UNREAD_SECONDS: Final = 1.0
_NEVER_SECONDS: Final = 2_000_000.0
"""Longest time without a fetch before the client leaves its group: about as much as fits into 32 bits of ms."""


class _ChangelogConsumer(Consumer):
    """Fetches changelogs only."""

    async def _getmany(self, active_partitions: Any, timeout: float) -> Any:
        changelogs = {name for name in active_partitions or () if self._is_changelog_tp(name)}
        if not changelogs:
            await self.sleep(min(timeout, _UNREAD_SECONDS))
            return {}
        return await super()._getmany(changelogs, timeout)

    async def verify_all_partitions_active(self) -> None:
        """Complains about nothing: that usage is not read here is intended."""


class _ChangelogTransport(Transport):
    Consumer = _ChangelogConsumer


class WindowsFaust(faust.App):
    """The app; it needs no file system, and computes nothing by itself."""

    async def on_first_start(self) -> None:
        """Creates no directories for tables: these are in memory, and the file system may be read-only."""

    def _new_transport(self) -> Transport:
        return _ChangelogTransport(self.conf.broker_consumer, self)


def new_app(app_id: str, kafka: Mapping[str, str], replication: int, usage_topic: str) -> WindowsFaust:
    """The app with these librdkafka properties, without tables. Raises NotForFaust."""
    servers = kafka["bootstrap.servers"].split(",")
    app = WindowsFaust(
        app_id,
        broker=";".join(f"kafka://{server.strip().rpartition('://')[2]}" for server in servers),
        broker_credentials=credentials_of(kafka),
        broker_client_id=f"{kafka.get('client.id', 'cost-accountant')}.windows",
        broker_session_timeout=_SESSION_SECONDS,
        broker_heartbeat_interval=_HEARTBEAT_SECONDS,
        broker_rebalance_timeout=_SESSION_SECONDS,
        broker_max_poll_interval=_NEVER_SECONDS,
        consumer_auto_offset_reset="earliest",
        store="memory://",
        autodiscover=False,
        web_enabled=False,
        topic_disable_leader=True,
        topic_replication_factor=replication,
        value_serializer="json",
        stream_wait_empty=False,
        # Changelog records are batched: sending each by itself would cost more than the rest of the work for it.
        producer_linger=_LINGER_SECONDS,
    )
    # Without acknowledgements Faust commits nothing.
    usage = app.topic(usage_topic, key_serializer="raw", value_serializer="raw", acks=False)

    async def subscribe(stream: Any) -> None:
        async for _ in stream:
            raise AssertionError("Faust has read usage, which is read elsewhere")

    app.agent(usage, name="usage")(subscribe)
    return app


def membership_of(app: Any, usage_topic: str) -> Membership:
    """The app's membership in its group."""

    def number() -> int | None:
        # The tables are restored before flow control is switched on for good; what is set before would be overwritten.
        changing = app.rebalancing or app.in_recovery or not app.flow_control.is_active()
        return None if changing else int(app.consumer_generation_id)

    def partitions() -> Collection[int]:
        return {name.partition for name in app.consumer.assignment() if name.topic == usage_topic}

    return Membership(number, partitions)


def event_of(app: Any, topic: str, partition: int, offset: int) -> Any:
    """A record as Faust's tables want it: they send their changes to its partition."""
    return app.create_event(None, None, None, Message(topic, partition, offset, 0.0, 0, None, None, None, None))
