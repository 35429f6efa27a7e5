"""The skill broadcaster as it is built for production, on real Kafka and registry: two of them, one after the other."""

import asyncio
import json

import aiohttp
import pytest
from headrace_skill_broadcaster.settings import SkillBroadcasterSettings
from headrace_skill_broadcaster.wiring import build
from headrace_testing.services_on_kafka import PEPPER, client_of, free_port, living, topics_on_kafka
from pydantic import SecretStr

pytestmark = pytest.mark.stack


async def next_event(response: aiohttp.ClientResponse) -> tuple[str, dict[str, object]]:
    place = ""
    async with asyncio.timeout(30):
        async for raw in response.content:
            name, _, value = raw.decode().rstrip("\n").partition(": ")
            if name == "id":
                place = value
            elif name == "data":
                return place, json.loads(value)
    raise AssertionError("the stream ended")


async def test_skills_are_published_pushed_found_and_outlive_the_process(
    kafka: str, registry_url: str, topic_prefix: str
) -> None:
    def settings(name: str, port: int) -> SkillBroadcasterSettings:
        return SkillBroadcasterSettings(
            bootstrap_servers=kafka,
            registry_url=registry_url,
            topic_prefix=topic_prefix,
            key_pepper=SecretStr(PEPPER),
            api_port=port,
            instance_id=name,
            kafka_properties={},
        )

    async with topics_on_kafka(kafka, registry_url, topic_prefix) as topics:
        key = await topics.key("acme", "skills")
        skill = {"name": "retry", "title": "Retry with jitter", "body": "one", "interests": ["testing", "backend"]}
        port = free_port()
        async with living(build(settings("one", port))), client_of(port, key) as http:
            following = await http.get("/v1/skills/feed", params={"interest": "testing"})
            async with http.post("/v1/skills", json=skill) as response:
                assert response.status == 201, await response.text()
            place, event = await next_event(following)
            assert (event["name"], event["version"], event["body"]) == ("retry", 1, "one")
            async with http.get("/v1/skills", params={"q": "jitter"}) as response:
                assert [item["name"] for item in (await response.json())["skills"]] == ["retry"]
            async with http.post("/v1/skills", json={**skill, "body": "two"}) as response:
                assert (await response.json())["version"] == 2
            assert (await next_event(following))[1]["version"] == 2
        port = free_port()
        async with living(build(settings("two", port))), client_of(port, key) as http:
            async with http.get("/v1/skills/retry") as response:
                assert (await response.json())["version"] == 2
            resumed = await http.get(
                "/v1/skills/feed", params={"interest": "testing"}, headers={"Last-Event-ID": place}
            )
            assert (await next_event(resumed))[1]["version"] == 2
            async with http.delete("/v1/skills/retry") as response:
                assert response.status == 200, await response.text()
            event = (await next_event(resumed))[1]
            assert (event["version"], event["change"]) == (3, "revoked")
            async with http.post("/v1/skills", json=skill) as response:
                assert (await response.json())["version"] == 4
