"""Intake as it is built for production, on real Kafka, registry and Postgres; only the router is a stand-in."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import openai
import pytest
from headrace_contracts.codec import Codec
from headrace_contracts.registry import SchemaRegistry
from headrace_contracts.topics import TOPICS
from headrace_intake.settings import IntakeSettings
from headrace_intake.wiring import build
from headrace_runtime.lifecycle import run as live
from headrace_streams.kafka import KafkaLog
from headrace_testing.intake_bed import BOOTSTRAP_KEY, PEPPER, StandIn
from headrace_testing.provisioned import provision_patiently
from headrace_testing.waiting import eventually
from pydantic import SecretStr

pytestmark = pytest.mark.stack


@dataclass
class OnKafka:
    """An intake on the real parts."""

    url: str
    router: StandIn
    http: aiohttp.ClientSession


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@asynccontextmanager
async def on_kafka(
    kafka: str, registry_url: str, dsn: str, prefix: str, instance_id: str = "intake-a"
) -> AsyncIterator[OnKafka]:
    log = KafkaLog({"bootstrap.servers": kafka})
    port = free_port()
    settings = IntakeSettings(
        bootstrap_servers=kafka,
        registry_url=registry_url,
        topic_prefix=prefix,
        database_url=SecretStr(dsn),
        key_pepper=SecretStr(PEPPER),
        bootstrap_key=SecretStr(BOOTSTRAP_KEY),
        api_port=port,
        instance_id=instance_id,
        kafka_properties={},
    )
    async with SchemaRegistry(registry_url) as registry, aiohttp.ClientSession() as http:
        codec = Codec(registry, prefix)
        await provision_patiently(log.admin(), codec, list(TOPICS.values()))
        router = StandIn(log, codec)
        routing = asyncio.create_task(router.run())
        stop = asyncio.Event()
        service = build(settings)
        life = asyncio.create_task(live(service, drain_seconds=5.0, stop_requested=stop))
        url = f"http://127.0.0.1:{port}"

        async def serves() -> bool:
            assert not life.done(), "intake did not start; its log says why"
            verdict = service.health.ready()
            return bool(verdict.reasons) and verdict.ok

        try:
            await eventually(serves, 30)
            yield OnKafka(url, router, http)
        finally:
            stop.set()
            code = await life
            routing.cancel()
            await asyncio.gather(routing, return_exceptions=True)
            await router.close()
        assert code == 0


async def test_an_answer_comes_back_over_kafka_and_stays_in_the_history(
    kafka: str, registry_url: str, postgres_dsn: str, topic_prefix: str
) -> None:
    async with on_kafka(kafka, registry_url, postgres_dsn, topic_prefix) as intake:
        async with openai.AsyncOpenAI(base_url=f"{intake.url}/v1", api_key=BOOTSTRAP_KEY, max_retries=0) as ai:
            answer = await ai.chat.completions.create(model="auto", messages=[{"role": "user", "content": "Hi"}])
            assert answer.choices[0].message.content == "Echo: Hi"
            stream = await ai.chat.completions.create(
                model="auto", messages=[{"role": "user", "content": "Again"}], stream=True
            )
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
            assert text == "Echo: Again"
        headers = {"Authorization": f"Bearer {BOOTSTRAP_KEY}"}

        async def both_in_history() -> bool:
            async with intake.http.get(f"{intake.url}/v1/tasks?status=succeeded", headers=headers) as response:
                return response.status == 200 and len((await response.json())["tasks"]) == 2

        await eventually(both_in_history)


async def test_a_caller_resumes_from_the_topic_after_a_restart(
    kafka: str, registry_url: str, postgres_dsn: str, topic_prefix: str
) -> None:
    headers = {"Authorization": f"Bearer {BOOTSTRAP_KEY}"}
    async with on_kafka(kafka, registry_url, postgres_dsn, topic_prefix) as intake:
        body = {"prompt": "Hi", "stream": True}
        async with intake.http.post(
            f"{intake.url}/v1/tasks", json=body, headers={**headers, "Prefer": "wait=10"}
        ) as response:
            task = await response.json()
        events = f"/v1/tasks/{task['id']}/events"
        async with intake.http.get(intake.url + events, headers=headers) as response:
            told = (await response.text()).strip().split("\n\n")
        assert len(told) == 3
    first_id = next(line.removeprefix("id: ") for line in told[0].splitlines() if line.startswith("id: "))
    async with on_kafka(kafka, registry_url, postgres_dsn, topic_prefix) as intake:
        async with intake.http.get(intake.url + events, headers={**headers, "Last-Event-ID": first_id}) as response:
            assert response.status == 200
            rest = (await response.text()).strip().split("\n\n")
        assert [block.splitlines()[0] for block in rest][-1] == "event: finished"
        assert "Echo: Hi" in rest[-1]


async def test_a_key_has_its_rate_over_two_intakes(
    kafka: str, registry_url: str, postgres_dsn: str, topic_prefix: str
) -> None:
    rate, seconds = 120, 8
    async with (
        on_kafka(kafka, registry_url, postgres_dsn, topic_prefix) as first,
        on_kafka(kafka, registry_url, postgres_dsn, topic_prefix, "intake-b") as second,
    ):
        admin = {"Authorization": f"Bearer {BOOTSTRAP_KEY}"}
        body = {"tenant": "acme", "requests_per_minute": rate}
        async with first.http.post(f"{first.url}/v1/keys", json=body, headers=admin) as response:
            key = {"Authorization": f"Bearer {(await response.json())['key']}"}

        async def asks(intake: OnKafka) -> int:
            async with intake.http.get(f"{intake.url}/v1/preferences", headers=key) as response:
                return response.status

        async def is_known() -> bool:
            return await asks(second) == 200

        await eventually(is_known)
        loop = asyncio.get_running_loop()
        one_would = rate + seconds * rate / 60
        began, let_through, refused, asked = loop.time(), 0, 0, 0
        # Each is asked for as much as one would let through.
        while asked < one_would:
            asked += 1
            for intake in (first, second):
                status = await asks(intake)
                let_through += status == 200
                refused += status == 429
            await asyncio.sleep(max(began + asked * seconds / one_would - loop.time(), 0))

        # A second or two may pass until one hears of the other.
        unheard = 2 * one_would / seconds
        assert one_would - 10 < let_through < one_would + unheard + 10
        assert refused == 2 * asked - let_through
