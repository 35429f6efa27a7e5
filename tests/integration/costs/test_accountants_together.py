"""Live windows of several cost accountants, which share the partitions and die."""

import asyncio
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest
from headrace_contracts.events import Outcome, SpendWindows, Usage, UsageRecorded
from headrace_contracts.topics import SPEND_WINDOWS, USAGE_RECORDED
from headrace_streams.tables import Table
from headrace_testing.services_on_kafka import PEPPER, Topics, free_port, topics_on_kafka
from headrace_testing.up import clean_environment
from headrace_testing.waiting import eventually

pytestmark = pytest.mark.stack

TENANTS = [f"tenant-{number}" for number in range(12)]


def usage(number: int, recorded_at: int) -> UsageRecorded:
    return UsageRecorded(
        event_id=f"u-{number}",
        tenant=TENANTS[number % len(TENANTS)],
        task_id="t",
        attempt_id="t/1",
        execution_id=str(number),
        provider="groq",
        model="llama-3.1-8b-instant",
        outcome=Outcome.ANSWERED,
        usage=Usage(input_tokens=1_000 + number, output_tokens=10),
        recorded_at=recorded_at,
    )


class Accountants:
    """Starts processes of the service."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self._folder = folder
        self._variables = variables
        self.processes: list[subprocess.Popen[bytes]] = []

    async def start(self) -> subprocess.Popen[bytes]:
        """Another one, once its live windows run."""
        port, number = free_port(), len(self.processes)
        environment = clean_environment(
            **self._variables,
            HEADRACE_OPS_PORT=str(port),
            HEADRACE_API_PORT="0",
            HEADRACE_INSTANCE_ID=f"costs-{number}",
        )
        with (self._folder / f"costs-{number}.log").open("wb") as log:
            process = subprocess.Popen(  # noqa: ASYNC220 - returns at once
                [sys.executable, "-m", "headrace_cost_accountant"], env=environment, stdout=log, stderr=log
            )
        self.processes.append(process)

        async def runs() -> bool:
            assert process.poll() is None, (self._folder / f"costs-{number}.log").read_text()
            try:
                async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{port}/readyz") as answer:
                    return bool((await answer.json())["notes"].get("live windows") == "running")
            except aiohttp.ClientError:
                return False

        await eventually(runs, 90)
        return process


@contextmanager
def accountants(folder: Path, **variables: str) -> Iterator[Accountants]:
    """Those that still run in the end are ended."""
    started = Accountants(folder, **variables)
    try:
        yield started
    finally:
        for process in started.processes:
            process.kill()
            process.wait()


class Recording:
    """Records usage until it is told to stop. All of it has one time, so that no day ends meanwhile."""

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._moment_ms = time.time_ns() // 1_000_000
        self.stopped = False
        self.number = 0
        self.tokens: Counter[str] = Counter()
        self.executions: Counter[str] = Counter()

    async def keep_recording(self) -> None:
        while not self.stopped:
            events = [usage(self.number + each, self._moment_ms) for each in range(5)]
            self.number += len(events)
            await self._topics.publish(
                USAGE_RECORDED, "acme", [(event.tenant, event.event_id, event) for event in events]
            )
            for event in events:
                self.tokens[event.tenant] += event.usage.input_tokens
                self.executions[event.tenant] += 1
            await asyncio.sleep(0.05)


async def test_whoever_dies_nothing_is_lost_from_live_windows_or_in_them_twice(
    kafka: str, registry_url: str, postgres_dsn: str, topic_prefix: str, tmp_path: Path
) -> None:
    async with topics_on_kafka(kafka, registry_url, topic_prefix) as topics:
        live: Table[SpendWindows] = Table(topics.log, topics.codec, SPEND_WINDOWS)
        await live.start()
        variables = {
            "HEADRACE_BOOTSTRAP_SERVERS": kafka,
            "HEADRACE_REGISTRY_URL": registry_url,
            "HEADRACE_TOPIC_PREFIX": topic_prefix,
            "HEADRACE_DATABASE_URL": postgres_dsn,
            "HEADRACE_KEY_PEPPER": PEPPER,
            "HEADRACE_WINDOWS_PUBLISH_SECONDS": "0.2",
        }
        with accountants(tmp_path, **variables) as costs:
            recording = Recording(topics)
            first = await costs.start()
            recorder = asyncio.create_task(recording.keep_recording())
            await asyncio.sleep(7)
            second = await costs.start()
            await asyncio.sleep(7)
            first.kill()
            await asyncio.sleep(3)
            third = await costs.start()
            second.send_signal(signal.SIGSTOP)
            # The third one takes all over; then the second goes on with what it had in hand.
            await asyncio.sleep(20)
            second.send_signal(signal.SIGCONT)
            await asyncio.sleep(5)
            third.terminate()
            await asyncio.sleep(3)
            recording.stopped = True
            await recorder

            def shown() -> tuple[dict[str, int], dict[str, int]]:
                days = {tenant: told.windows[-1] for tenant, told in live.items().items()}
                return (
                    {tenant: day.executions for tenant, day in days.items()},
                    {tenant: day.usage.input_tokens for tenant, day in days.items()},
                )

            async def exact() -> bool:
                return shown() == (recording.executions, recording.tokens)

            try:
                await eventually(exact, 90)
            except TimeoutError:
                assert shown() == (recording.executions, recording.tokens)
            await asyncio.sleep(3)
            assert await exact()
        await live.close()
