"""Waiting until everything has settled, and sampling the ledger meanwhile."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping

import asyncpg
from confluent_kafka import KafkaException

from headrace_chaos.evidence import Value
from headrace_chaos.wire import Avro, Reader

_LOOK_SECONDS = 0.25


class LedgerWatch:
    """Records when usage appears in the ledger: pairs of (seen at, newest usage), in milliseconds since the epoch."""

    def __init__(self, database_url: str) -> None:
        self._url = database_url
        self.booked: list[tuple[int, int]] = []

    async def run(self) -> None:
        """Runs until cancelled; Postgres may be down."""
        connection: asyncpg.Connection | None = None
        try:
            while True:
                try:
                    if connection is None:
                        connection = await asyncpg.connect(self._url, ssl=False, timeout=5)
                    newest = await connection.fetchval("SELECT max(recorded_at) FROM ledger.entries", timeout=5)
                except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                    if connection is not None:
                        connection.terminate()
                    connection = None
                else:
                    if newest and (not self.booked or self.booked[-1][1] != newest):
                        self.booked.append((time.time_ns() // 1_000_000, int(newest)))
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            if connection is not None:
                connection.terminate()


async def until_quiet(
    *,
    kafka: Mapping[str, str],
    registry_url: str,
    prefix: str,
    database_url: str,
    seconds: float,
    say: Callable[[str], None],
) -> list[str]:
    """Wait until every submitted task has ended and all usage and tasks are in the database; returns what is open."""
    reader = Reader(kafka, prefix, Avro(registry_url))
    tail = _Tail(reader)
    deadline = time.monotonic() + seconds
    said = 0.0
    try:
        while True:
            problems: list[str] = []
            try:
                await asyncio.to_thread(tail.move)
                problems += tail.open_tasks()
                problems += await _behind(database_url, prefix, tail.positions)
            except (KafkaException, OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                problems.append(f"not readable: {error}")
            if not problems or time.monotonic() > deadline:
                return problems
            if time.monotonic() > said + 5.0:
                said = time.monotonic()
                say(f"waiting for {len(problems)}, such as {problems[0]}")
            await asyncio.sleep(0.3)
    finally:
        with contextlib.suppress(KafkaException):
            reader.close()


async def until_idle(*, kafka: Mapping[str, str], registry_url: str, prefix: str, seconds: float) -> dict[str, int]:
    """Wait until every living worker reports that none of its slots is taken; returns its last report of each node."""
    reader = Reader(kafka, prefix, Avro(registry_url))
    positions: dict[tuple[str, int], int] = {}
    reports: dict[bytes | None, Value] = {}
    began = time.time_ns() // 1_000_000

    def move() -> None:
        for record in reader.read(dict(positions), reader.ends(["fleet.status"])):
            positions[record.topic, record.partition] = record.offset + 1
            reports.pop(record.key, None)
            if record.value is not None:
                reports[record.key] = record.value

    try:
        while True:
            await asyncio.to_thread(move)
            now = time.time_ns() // 1_000_000
            living = [one for one in reports.values() if one["reported_at"] + one["valid_for_ms"] > now]
            told = living and all(one["reported_at"] >= began and one["busy"] == 0 for one in living)
            if told or now > began + seconds * 1000:
                return {f"{one['node']} of {one['worker']}": one["busy"] for one in living}
            await asyncio.sleep(0.5)
    finally:
        reader.close()


class _Tail:
    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._submitted: set[str] = set()
        self._ended: set[str] = set()
        self.positions: dict[tuple[str, int], int] = {}

    def move(self) -> None:
        topics = ("tasks.submitted", "tasks.completed", "usage.recorded")
        for record in self._reader.read(dict(self.positions), self._reader.ends(topics)):
            self.positions[record.topic, record.partition] = record.offset + 1
            if record.value is not None and record.topic != "usage.recorded":
                known = self._submitted if record.topic == "tasks.submitted" else self._ended
                known.add(record.value["task_id"])

    def open_tasks(self) -> list[str]:
        return [f"task {task_id} to end" for task_id in sorted(self._submitted - self._ended)]


async def _behind(database_url: str, prefix: str, positions: dict[tuple[str, int], int]) -> list[str]:
    connection = await asyncpg.connect(database_url, ssl=False, timeout=5)
    try:
        rows = [
            (schema, row["topic"].removeprefix(prefix), row["partition"], row["next_offset"])
            for schema in ("ledger", "intake")
            for row in await connection.fetch(f"SELECT * FROM {schema}.positions")
        ]
    finally:
        await connection.close()
    held = {(schema, topic, partition): at for schema, topic, partition, at in rows}
    return [
        f"{schema} to read {topic}/{partition} to {end}"
        for (topic, partition), end in positions.items()
        for schema in (("ledger",) if topic == "usage.recorded" else ("intake",))
        if held.get((schema, topic, partition), 0) < end
    ]
