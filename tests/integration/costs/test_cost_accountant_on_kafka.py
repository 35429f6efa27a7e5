"""The cost accountant as it is built for production, on real Kafka, registry and Postgres."""

import csv
import io
import time
from typing import Any

import pytest
from headrace_contracts.events import Outcome, Usage, UsageRecorded
from headrace_contracts.topics import USAGE_RECORDED
from headrace_cost_accountant.decide.booking import cost_of
from headrace_cost_accountant.settings import CostAccountantSettings
from headrace_cost_accountant.wiring import build
from headrace_models.prices import load_price_book
from headrace_testing.services_on_kafka import PEPPER, client_of, free_port, living, topics_on_kafka
from headrace_testing.waiting import eventually
from pydantic import SecretStr

pytestmark = pytest.mark.stack

BOOK = load_price_book()


def usage(number: int, tenant: str) -> UsageRecorded:
    return UsageRecorded(
        event_id=f"{tenant}-{number}",
        tenant=tenant,
        user=f"user-{number % 2}",
        task_id=f"t-{number}",
        attempt_id=f"t-{number}/1",
        execution_id="x",
        provider=("groq", "anthropic")[number % 2],
        model=("llama-3.1-8b-instant", "claude-sonnet-4-6")[number % 2],
        simulated=number % 3 == 0,
        outcome=Outcome.ANSWERED,
        usage=Usage(input_tokens=1_000 + number, output_tokens=100),
        recorded_at=time.time_ns() // 1_000_000,
    )


async def test_usage_becomes_reports_live_windows_and_csv(
    kafka: str, registry_url: str, postgres_dsn: str, topic_prefix: str
) -> None:
    port = free_port()
    settings = CostAccountantSettings(
        bootstrap_servers=kafka,
        registry_url=registry_url,
        topic_prefix=topic_prefix,
        database_url=SecretStr(postgres_dsn),
        key_pepper=SecretStr(PEPPER),
        api_port=port,
        instance_id="costs-a",
        windows_publish_seconds=0.1,
        kafka_properties={},
    )
    async with topics_on_kafka(kafka, registry_url, topic_prefix) as topics:
        key = await topics.key("acme", "costs")
        admin = await topics.key("umbra", "admin")
        events = {tenant: [usage(number, tenant) for number in range(60)] for tenant in ("acme", "umbra")}
        cost = {name: sum(cost_of(event, BOOK).nanodollars for event in each) for name, each in events.items()}
        service = build(settings)
        async with living(service), client_of(port, key) as http, client_of(port, admin) as boss:
            for tenant, used in events.items():
                await topics.publish(USAGE_RECORDED, tenant, [(tenant, each.event_id, each) for each in used])

            async def report(session: Any = http, **params: str) -> Any:
                async with session.get("/v1/costs", params=params) as response:
                    assert response.status == 200, await response.text()
                    return await response.json()

            async def booked() -> bool:
                return bool((await report(boss, tenant="*"))["total"]["executions"] == 120)

            await eventually(booked, 30)
            by_model = await report(group_by="provider,model")
            assert by_model["tenant"] == "acme"
            assert by_model["total"]["cost_nanodollars"] == cost["acme"]
            assert sum(group["cost_nanodollars"] for group in by_model["groups"]) == cost["acme"]
            assert by_model["simulated"]["executions"] == 20
            by_tenant = await report(boss, tenant="*", group_by="tenant")
            assert {
                group["key"]["tenant"]: group["executions"] for group in by_tenant["groups"] if not group["simulated"]
            } == {"acme": 40, "umbra": 40}
            async with http.get("/v1/costs", params={"tenant": "umbra"}) as response:
                assert response.status == 403
            async with http.get("/v1/costs", params={"group_by": "weather"}) as response:
                assert response.status == 400
            async with http.get("/v1/costs", params={"group_by": "user"}, headers={"Accept": "text/csv"}) as response:
                assert response.content_type == "text/csv"
                rows = list(csv.DictReader(io.StringIO(await response.text())))
            assert sum(int(row["cost_nanodollars"]) for row in rows) == cost["acme"]

            async def live() -> bool:
                async with http.get("/v1/costs/live") as response:
                    windows = (await response.json())["windows"]
                return bool(windows[-1]["cost_nanodollars"] == cost["acme"])

            await eventually(live, 40)
            assert service.health.notes == {"live windows": "running", "forecast": "current"}
