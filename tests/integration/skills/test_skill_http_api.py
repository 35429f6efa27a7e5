"""The HTTP API of skills."""

import hashlib
from typing import Any

import pytest
from headrace_skill_broadcaster.decide.rules import SkillLimits
from headrace_testing.bad_bodies import BAD_BODIES
from headrace_testing.engine import eventually
from headrace_testing.skill_broadcaster import ApiClient, Installation

SKILL: dict[str, Any] = {
    "name": "retry-with-jitter",
    "title": "Retry without stampedes",
    "summary": "Spread retries over time.",
    "body": "Add a random delay.",
    "interests": ["testing"],
    "author": "ada",
}


@pytest.fixture
async def client(installation: Installation) -> ApiClient:
    return await (await installation.run()).api(installation.key())


async def test_publish_read_update_and_revoke(client: ApiClient) -> None:
    response = await client.post("/v1/skills", json=SKILL)
    document = await response.json()
    assert response.status == 201, document
    assert (document["version"], document["outcome"], document["status"]) == (1, "published", "live")
    assert document["digest"] == hashlib.sha256(b"Add a random delay.").hexdigest()
    assert response.headers["Location"] == "/v1/skills/retry-with-jitter"

    again = await client.post("/v1/skills", json=SKILL)
    assert (again.status, (await again.json())["outcome"]) == (200, "unchanged")

    changed = await client.post("/v1/skills", json={**SKILL, "body": "Add a random delay, and a limit."})
    assert (changed.status, (await changed.json())["version"]) == (201, 2)

    read = await client.get("/v1/skills/retry-with-jitter")
    assert (await read.json())["body"] == "Add a random delay, and a limit."
    assert (await client.get("/v1/skills/retry-with-jitter", params={"version": "2"})).status == 200
    old = await client.get("/v1/skills/retry-with-jitter", params={"version": "1"})
    problem = await old.json()
    assert (old.status, problem["type"]) == (404, "urn:headrace:problem:version-not-kept")
    assert problem["digest"] == document["digest"]
    unknown = await client.get("/v1/skills/retry-with-jitter", params={"version": "9"})
    assert (await unknown.json())["type"] == "urn:headrace:problem:version-unknown"

    revoked = await client.delete("/v1/skills/retry-with-jitter")
    assert (revoked.status, (await revoked.json())["status"]) == (200, "revoked")
    assert (await client.delete("/v1/skills/retry-with-jitter")).status == 200
    gone = await (await client.get("/v1/skills/retry-with-jitter")).json()
    assert (gone["status"], gone["body"], gone["version"]) == ("revoked", None, 3)
    history = await (await client.get("/v1/skills/retry-with-jitter/versions")).json()
    assert [(past["version"], past["status"]) for past in history["versions"]] == [
        (3, "revoked"),
        (2, "live"),
        (1, "live"),
    ]


async def test_what_was_published_is_found_at_once(client: ApiClient) -> None:
    for number in range(5):
        skill = {**SKILL, "name": f"skill-{number}", "title": f"Jitter {number}", "body": str(number)}
        assert (await client.post("/v1/skills", json=skill)).status == 201
        found = await (await client.get("/v1/skills", params={"q": f"jitter {number}"})).json()
        assert [item["name"] for item in found["skills"]] == [f"skill-{number}"]
    first = await (await client.get("/v1/skills", params={"limit": "3"})).json()
    second = await (await client.get("/v1/skills", params={"limit": "3", "cursor": first["next_cursor"]})).json()
    names = [item["name"] for page in (first, second) for item in page["skills"]]
    assert names == [f"skill-{number}" for number in range(5)]
    assert second["next_cursor"] is None
    assert "body" not in first["skills"][0]
    await client.delete("/v1/skills/skill-0")
    found = await (await client.get("/v1/skills", params={"interest": "testing"})).json()
    assert "skill-0" not in [item["name"] for item in found["skills"]]


async def test_a_skill_that_cannot_be_is_refused_before_it_is_submitted(
    client: ApiClient, installation: Installation
) -> None:
    response = await client.post("/v1/skills", json={**SKILL, "digest": "0" * 64})
    problem = await response.json()
    assert (response.status, problem["type"], problem["field"]) == (422, "urn:headrace:problem:invalid-skill", "digest")
    assert (await client.post("/v1/skills", json={**SKILL, "name": "No Name"})).status == 422
    assert (await client.post("/v1/skills", json={**SKILL, "bodi": "x"})).status == 400
    assert (await client.delete("/v1/skills/unheard-of")).status == 404
    assert (await client.get("/v1/skills", params={"limit": "0"})).status == 400
    assert (await client.get("/v1/skills", params={"cursor": "x"})).status == 400
    assert not installation.catalog()
    assert not installation.dead_letters()


async def test_another_tenant_sees_nothing(client: ApiClient, installation: Installation) -> None:
    await client.post("/v1/skills", json=SKILL)
    other = await installation.processes[0].api(installation.key("umbra"))
    assert (await other.get("/v1/skills/retry-with-jitter")).status == 404
    assert (await other.delete("/v1/skills/retry-with-jitter")).status == 404
    assert (await (await other.get("/v1/skills", params={"q": "retry"})).json())["skills"] == []


async def test_a_key_without_the_scope_is_refused(client: ApiClient, installation: Installation) -> None:
    other = await installation.processes[0].api(installation.key("acme", "tasks"))
    assert (await other.get("/v1/skills")).status == 403
    assert (await client.get("/v1/skills", headers={"Authorization": "Bearer nothing"})).status == 401


async def test_a_submission_that_takes_long_is_accepted_all_the_same(installation: Installation) -> None:
    process = installation.make("one")
    # No keeper runs.
    await process.catalog.start()
    await process.feed.start()
    client = await process.api(installation.key())
    response = await client.post("/v1/skills", json=SKILL)
    document = await response.json()
    assert (response.status, document["status"]) == (202, "pending")
    assert document["submission_id"]


async def test_a_bad_body_is_refused_with_what_is_wrong_and_where(client: ApiClient) -> None:
    for name, bad in BAD_BODIES.items():
        headers = {"Content-Type": "application/json", **bad.headers}
        response = await client.post("/v1/skills", data=bad.body, headers=headers)
        problem = await response.json()
        assert (response.status, problem["type"]) == (bad.status, f"urn:headrace:problem:{bad.kind}"), name
        assert bad.param is None or problem["errors"][0]["field"] == bad.param, name
    assert (await (await client.get("/v1/skills")).json())["skills"] == []


@pytest.mark.parametrize(
    ("rules", "sizes"),
    [
        (SkillLimits(skills_per_tenant=3), [10, 10, 10, 10]),
        (SkillLimits(bytes_per_tenant=10_000), [5_000, 2_000, 5_000]),
        (SkillLimits(bytes_per_tenant=5_000), [6_000]),
    ],
    ids=["too many", "too large together", "too large alone"],
)
async def test_a_tenant_has_a_quota_and_revoking_makes_room(
    installation: Installation, rules: SkillLimits, sizes: list[int]
) -> None:
    process = await installation.run(rules=rules)
    client = await process.api(installation.key())
    answers = [
        await client.post("/v1/skills", json={**SKILL, "name": f"skill-{number}", "body": "x" * size})
        for number, size in enumerate(sizes)
    ]
    assert [answer.status for answer in answers] == [201] * (len(sizes) - 1) + [403]
    problem = await answers[-1].json()
    assert problem["type"] == "urn:headrace:problem:quota-exceeded"
    assert problem["skills"] == len(sizes) - 1
    stranger = await process.api(installation.key("globex"))
    assert (await stranger.post("/v1/skills", json=SKILL)).status == 201
    # What comes in by Kafka is held to it as well, and kept as a dead letter with the reason.
    await installation.submit("by-kafka", "x" * sizes[-1])
    await eventually(lambda: bool(installation.dead_letters()), "a dead letter", 30)
    (letter,) = installation.dead_letters()
    assert "and may have" in letter.error_message
