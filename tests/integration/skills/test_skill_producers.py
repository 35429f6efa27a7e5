"""Skills of producers that may not speak for their tenant are not published."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from headrace_contracts.content import plain
from headrace_contracts.events import SkillAction, SkillSubmitted
from headrace_contracts.topics import SKILLS_SUBMITTED
from headrace_streams.records import ProducerRecord
from headrace_testing.signatures import FORGERIES, NEW, TAKEN, Signing, access_key, keys, signed, verification
from headrace_testing.skill_broadcaster import PEPPER, Installation, now_ms

Eventually = Callable[..., Awaitable[None]]


def write(installation: Installation, name: str, headers: Signing) -> None:
    submission = SkillSubmitted(
        submission_id=name, tenant="acme", name=name, action=SkillAction.PUBLISH, body=plain("body"),
        submitted_at=now_ms(), interests=("testing",),
    )  # fmt: skip
    topic, key = installation.codec.topic_prefix + SKILLS_SUBMITTED.name, f"acme/{name}".encode()
    value = installation.codec.encode(SKILLS_SUBMITTED, submission)
    installation.cluster.append(
        ProducerRecord(topic=topic, value=value, key=key, partition=0, headers=tuple(headers(topic, key, value)))
    )


async def test_only_skills_of_those_who_may_are_published(installation: Installation, eventually: Eventually) -> None:
    producers = verification(keys(), prefix="t.", patience_seconds=0.05)
    await installation.make("one", producers=producers).start()
    for number, forgery in enumerate(FORGERIES.values()):
        write(installation, f"forged-{number}", forgery.headers)
    for number, headers in enumerate(TAKEN.values()):
        write(installation, f"good-{number}", headers)
    good = {f"acme/good-{number}" for number in range(len(TAKEN))}
    await eventually(lambda: installation.catalog().keys() == good)
    assert {(letter.key, letter.error_message.partition(":")[0]) for letter in installation.dead_letters()} == {
        (f"acme/forged-{number}".encode(), str(forgery.flaw) + (" skills" if "scope" in forgery.flaw else ""))
        for number, forgery in enumerate(FORGERIES.values())
    }


@pytest.mark.parametrize("after", [0.0, 0.1, 0.5])
async def test_a_key_created_a_moment_ago_is_waited_for(
    installation: Installation, eventually: Eventually, after: float
) -> None:
    known = keys()
    await installation.make("one", producers=verification(known, prefix="t.", patience_seconds=20.0)).start()
    write(installation, "early", signed(NEW))
    await asyncio.sleep(after)
    assert not installation.catalog()
    known[NEW] = access_key(NEW)
    await eventually(lambda: "acme/early" in installation.catalog())
    assert not installation.dead_letters()


async def test_what_callers_of_the_api_publish_is_signed(installation: Installation) -> None:
    producers = verification({}, prefix="t.", secret=PEPPER.get_secret_value())
    process = await installation.make("one", producers=producers).start()
    client = await process.api(installation.key("acme"))
    for name in ("one", "two", "three"):
        body = {"name": name, "body": f"how to {name}", "interests": ["testing"]}
        response = await client.post("/v1/skills", json=body)
        assert response.status in (200, 201), await response.text()
    assert not installation.dead_letters()
