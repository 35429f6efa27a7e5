"""`headrace tail`."""

from __future__ import annotations

import heapq
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from headrace_contracts.users import CONTENT_READER

from headrace.cli.output import ERR, OUT, print_text
from headrace.cli.running import NOT_ALLOWED, USAGE, addresses, fail, run
from headrace.cli.timeparse import time_before

if TYPE_CHECKING:
    from headrace_contracts.errors import UnreadableValue
    from headrace_streams.records import Record

    from headrace.connecting import Cluster
    from headrace.consuming import Consumption, Start


def tail(
    topic: Annotated[str, typer.Argument(help="Topic, with or without the prefix, such as tasks.completed.")],
    count: Annotated[
        int, typer.Option("-n", "--count", help="Newest records to show; with --follow, to begin with.", min=0)
    ] = 10,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep showing new records, until Ctrl-C.")] = False,
    from_start: Annotated[bool, typer.Option("--from-start", help="Begin with the oldest record, show all.")] = False,
    since: Annotated[
        str | None, typer.Option(help="Begin at a time (2027-01-01T12:00:00Z) or an age (30m, 2h).")
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    key: Annotated[str | None, typer.Option(help="Only records of this key.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="One JSON document per line, with all fields.")] = False,
) -> None:
    """Read a topic, decoded.

    It reads outside any consumer group: nothing is committed, and no consumer misses a record. Records that cannot be
    decoded are reported on stderr and skipped.

    \b
    Examples:
      headrace tail tasks.completed
      headrace tail work.local.interactive --follow
      headrace tail tasks.completed --from-start --tenant acme --json | jq .event.cost_nanodollars
      headrace tail skills.feed --since 10m --key acme/testing
    """
    if from_start and since:
        raise fail("--from-start and --since contradict each other", USAGE)
    begin: Start | None = "start" if from_start else time_before(since)
    run(_tail(_Tail(topic, tenant, key, json_output=json_output), begin, count, follow=follow))


async def _tail(tail_: _Tail, begin: Start | None, count: int, *, follow: bool) -> None:
    from headrace_streams.rights import reader_of

    from headrace.connecting import Cluster, spec_named

    where = addresses()
    spec = spec_named(tail_.topic, where.topic_prefix)
    user = reader_of(spec)
    if user is None and where.needs_login:
        raise fail(
            f"on a secure stack, only services read {spec.name} ({', '.join(spec.readers)}); to log in as another "
            "user, set HEADRACE_KAFKA_PROPERTIES_FILE to a file of that user",
            NOT_ALLOWED,
        )
    async with Cluster.at(where, user=user or CONTENT_READER) as cluster:
        if begin is not None:
            await tail_.show_all(tail_.consumption(cluster, begin, follow=follow))
            return
        # Opened before the existing records are read, so that no record is missed in between.
        live = await tail_.consumption(cluster, "end", follow=True).start() if follow else None
        try:
            last_shown = await tail_.show_newest(cluster, count)
            if live is not None:
                await tail_.show_all(live, last_shown)
        finally:
            if live is not None:
                await live.close()


class _Tail:
    """Selects and shows records of a topic."""

    def __init__(self, topic: str, tenant: str | None, key: str | None, *, json_output: bool) -> None:
        self.topic = topic
        self._tenant = tenant
        self._key = key
        self._json = json_output

    def consumption(self, cluster: Cluster, start: Start, *, follow: bool) -> Consumption[Any]:
        from headrace.consuming import consume

        return consume(self.topic, start=start, follow=follow, cluster=cluster, on_unreadable=self._tell)

    async def show_all(self, consumption: Consumption[Any], seen: dict[int, int] | None = None) -> None:
        """Show each record as it comes, except those up to the offsets (by partition) that were already shown."""
        seen = seen or {}
        async with consumption:
            async for delivered in consumption:
                record = delivered.record
                if self._matches(record) and record.offset > seen.get(record.partition, -1):
                    self._show(record, delivered.event)

    async def show_newest(self, cluster: Cluster, count: int) -> dict[int, int]:
        """Show the newest existing records, ordered by time; returns the last offset read per partition."""
        from headrace.consuming import Newest

        seen: dict[int, int] = {}
        newest: list[tuple[int, int, int, Record, Any]] = []
        # With a filter, any number of other records may follow the newest few that match.
        start: Start = Newest(count) if self._tenant is None and self._key is None else "start"
        async with self.consumption(cluster, start, follow=False) as present:
            async for delivered in present:
                record = delivered.record
                seen[record.partition] = record.offset
                if self._matches(record):
                    entry = (record.timestamp_ms, record.partition, record.offset, record, delivered.event)
                    if len(newest) < count:
                        heapq.heappush(newest, entry)
                    elif count:
                        heapq.heappushpop(newest, entry)
        for *_, record, event in sorted(newest, key=lambda entry: entry[:3]):
            self._show(record, event)
        return seen

    def _matches(self, record: Record) -> bool:
        from headrace_contracts.headers import header

        return (self._key is None or record.key == self._key.encode()) and (
            self._tenant is None or header(record.headers, "ce_tenant") == self._tenant
        )

    def _show(self, record: Record, event: Any) -> None:
        from headrace.cli.records import record_document, record_line

        if self._json:
            print_text(json.dumps(record_document(record, event), ensure_ascii=False))
        else:
            OUT.print(record_line(record, event), soft_wrap=True)

    def _tell(self, record: Record, error: UnreadableValue) -> None:
        from headrace_contracts.errors import NullValue

        if self._matches(record):
            what = "the key was removed" if isinstance(error, NullValue) else error.reason
            ERR.print(f"{error.origin}: {what}", style="yellow", soft_wrap=True, markup=False)
