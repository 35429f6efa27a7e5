"""Intake, router and the SDK as they are built for production, where unsigned records are refused."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import pytest
from headrace import Addresses, Client, KafkaClient
from headrace.consuming import consume
from headrace_contracts.events import DeadLetter, TaskStatus
from headrace_contracts.topics import TASKS_SUBMITTED, dead_letters_of
from headrace_intake.settings import IntakeSettings
from headrace_intake.wiring import build as build_intake
from headrace_router.settings import RouterSettings
from headrace_router.wiring import build as build_router
from headrace_testing.intake_bed import BOOTSTRAP_KEY
from headrace_testing.services_on_kafka import PEPPER, free_port, living, topics_on_kafka
from headrace_testing.waiting import eventually
from pydantic import SecretStr

pytestmark = pytest.mark.stack


async def test_a_tenants_key_signs_for_its_tenant_only(
    kafka: str, registry_url: str, postgres_dsn: str, topic_prefix: str
) -> None:
    port = free_port()
    common: dict[str, Any] = {
        "bootstrap_servers": kafka, "registry_url": registry_url, "topic_prefix": topic_prefix, "kafka_properties": {},
        "key_pepper": SecretStr(PEPPER), "unsigned_submissions": "refuse", "instance_id": "a",
    }  # fmt: skip
    intake = IntakeSettings(
        **common, database_url=SecretStr(postgres_dsn), bootstrap_key=SecretStr(BOOTSTRAP_KEY), api_port=port
    )
    addresses = Addresses(
        url=f"http://127.0.0.1:{port}", bootstrap_servers=kafka, registry_url=registry_url, topic_prefix=topic_prefix
    )
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(topics_on_kafka(kafka, registry_url, topic_prefix))
        await stack.enter_async_context(living(build_intake(intake)))
        await stack.enter_async_context(living(build_router(RouterSettings(**common))))
        admin = await stack.enter_async_context(Client(addresses.url, BOOTSTRAP_KEY))
        mine, theirs = [await admin.keys.create(tenant) for tenant in ("acme", "mallory")]

        async def agent(signing_key: str | None) -> KafkaClient:
            return await stack.enter_async_context(KafkaClient("acme", addresses=addresses, signing_key=signing_key))

        forgers = [await agent(None), await agent(theirs.signing_key)]
        forged = [await forger.submit("Spend what is not mine.", role="documentation") for forger in forgers]
        client = await agent(mine.signing_key)
        task = await client.submit("Wait for a node.", role="documentation")
        await client.cancel(task)
        assert (await task.completion(30)).status is TaskStatus.CANCELLED

        owner = await stack.enter_async_context(Client(addresses.url, mine.key))
        over_http = await owner.submit("Wait as well.", role="documentation")

        async def in_history() -> bool:
            return {one.id for one in (await owner.list()).tasks} >= {task.task_id, over_http.id}

        await eventually(in_history, 30)
        assert {one.id for one in (await owner.list()).tasks} == {task.task_id, over_http.id}
        await owner.cancel(over_http.id)
        assert (await over_http.wait(30)).status == "cancelled"

        refused: dict[str, str] = {}
        letters = dead_letters_of(TASKS_SUBMITTED).name
        async with consume(letters, DeadLetter, start="start", follow=False, cluster=client._cluster) as kept:
            async for each in kept:
                refused[f"{each.event.partition}/{each.event.offset}"] = each.event.error_message.partition(":")[0]
        assert refused == {
            f"{forged[0].partition}/{forged[0].offset}": "unsigned",
            f"{forged[1].partition}/{forged[1].offset}": "key of another tenant",
        }
