"""No caller gets less privacy over HTTP than is demanded, and nobody lowers that without the scope for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import openai
import pytest
from headrace_contracts.errors import Origin
from headrace_contracts.events import Preferences
from headrace_contracts.topics import AUDIT_RECORDED, PREFERENCES, TASKS_SUBMITTED
from headrace_streams.memory import NetworkRequest, Operation
from headrace_testing.intake_bed import Bed, Running
from headrace_testing.waiting import eventually

T = TypeVar("T")
TASKS, CHAT, PREFS = "/v1/tasks", "/v1/chat/completions", "/v1/preferences"


async def made_key(intake: Running, *scopes: str) -> str:
    _, made, _ = await intake.call("POST", "/v1/keys", {"tenant": "acme", "scopes": list(scopes)})
    return str(made["key"])


def body_of(path: str, **fields: Any) -> dict[str, Any]:
    if path == TASKS:
        return {"prompt": "Hi", **fields}
    return {"model": "auto", "messages": [{"role": "user", "content": "Hi"}], **fields}


def written(bed: Bed) -> int:
    return len(bed.cluster.records(f"headrace.{TASKS_SUBMITTED.name}"))


@pytest.mark.parametrize("path", [TASKS, CHAT])
@pytest.mark.parametrize(
    ("query", "headers", "fields"),
    [
        ("", {"X_Headrace_Privacy": "sensitive"}, {"privacy": "public"}),
        ("", {"X_Headrace_Privacy": "public"}, {"privacy": "sensitive"}),
        ("", {"X_Headrace_Mode": "local"}, {"mode": "cloud"}),
        ("", {"X_Headrace_User": "ann"}, {"user": "bob"}),
        ("?privacy=sensitive", {}, {"privacy": "public"}),
        ("?mode=local", {"X_Headrace_Mode": "hybrid"}, {}),
        ("", {}, {"privacy": "sensitive", "mode": "cloud"}),
        ("", {"X_Headrace_Privacy": "sensitive"}, {"mode": "cloud"}),
        ("?privacy=sensitive", {}, {}),
    ],
)
async def test_what_contradicts_itself_is_refused_and_writes_nothing(
    bed: Bed, path: str, query: str, headers: dict[str, str], fields: dict[str, Any]
) -> None:
    intake = await bed.intake()
    status, _, _ = await intake.call("POST", path + query, body_of(path, **fields), **headers)
    assert status == 400
    assert written(bed) == 0


async def test_the_same_in_header_query_and_body_is_one_thing(bed: Bed) -> None:
    intake = await bed.intake()
    for path in (TASKS, CHAT):
        status, _, _ = await intake.call(
            "POST", f"{path}?privacy=internal", body_of(path, privacy="internal"), X_Headrace_Privacy="internal",
            Prefer="wait=5",
        )  # fmt: skip
        assert status == 200


@pytest.mark.parametrize("path", [TASKS, CHAT])
@pytest.mark.parametrize(
    ("of_tenant", "of_user", "fields"),
    [
        ({"privacy_level": "high"}, None, {"privacy": "public"}),
        ({"privacy_level": "standard"}, None, {"privacy": "public"}),
        ({"privacy_level": "high"}, {"privacy_level": "low"}, {"privacy": "internal"}),
        ({"privacy_level": "low"}, {"privacy_level": "high"}, {"privacy": "internal"}),
        ({"ai_mode": "local"}, {"ai_mode": "cloud"}, {"mode": "cloud"}),
        ({}, {"ai_mode": "local"}, {"mode": "hybrid"}),
        ({"privacy_level": "high"}, None, {"mode": "cloud"}),
    ],
)
async def test_less_than_tenant_and_user_demand_is_refused_and_audited(
    bed: Bed, path: str, of_tenant: dict[str, Any], of_user: dict[str, Any] | None, fields: dict[str, Any]
) -> None:
    intake = await bed.intake()
    key = await made_key(intake, "tasks", "preferences")
    assert (await intake.call("PUT", PREFS, of_tenant, key=key))[0] == 200
    if of_user is not None:
        assert (await intake.call("PUT", f"{PREFS}?user=ann", of_user, key=key))[0] == 200
    status, problem, _ = await intake.call("POST", path, body_of(path, user="ann", **fields), key=key)
    assert status == 403
    said = problem["error"]["message"] if path == CHAT else problem["detail"]
    assert "preferences demand" in said
    assert written(bed) == 0
    assert len(bed.cluster.records(f"headrace.{AUDIT_RECORDED.name}")) == 1
    # An admin is bound by it, too; what says nothing, or more, is accepted.
    admin = await made_key(intake, "admin")
    assert (await intake.call("POST", path, body_of(path, user="ann", **fields), key=admin))[0] == 403
    for enough in ({}, {"privacy": "sensitive", "mode": "local"}):
        assert (await intake.call("POST", path, body_of(path, user="ann", **enough), key=key))[0] in (200, 202)


async def test_a_user_without_preferences_is_held_to_the_tenants_at_once(bed: Bed) -> None:
    intake = await bed.intake()
    key = await made_key(intake, "tasks", "preferences")
    for level, status in (("low", 202), ("high", 403), ("standard", 403), ("low", 202)):
        await intake.call("PUT", PREFS, {"privacy_level": level}, key=key)
        for user in ("", "ann", "bob"):
            body = {"prompt": "Hi", "privacy": "public", "user": user}
            assert (await intake.call("POST", TASKS, body, key=key))[0] == status


async def test_a_key_for_tasks_raises_users_and_nothing_else(bed: Bed) -> None:
    intake = await bed.intake()
    tasks, owner = await made_key(intake, "tasks"), await made_key(intake, "preferences")
    for body in ({}, {"privacy_level": "high"}, {"ai_mode": "local"}):
        status, problem, _ = await intake.call("PUT", PREFS, body, key=tasks)
        assert (status, problem["type"]) == (403, "urn:headrace:problem:scope-missing")
    assert (await intake.call("PUT", PREFS, {"allowed_providers": ["groq", "openai"]}, key=owner))[0] == 200
    ann = f"{PREFS}?user=ann"
    steps: list[tuple[str, dict[str, Any], int]] = [
        (tasks, {"privacy_level": "standard", "allowed_providers": ["groq", "openai"]}, 200),
        (tasks, {"privacy_level": "low", "allowed_providers": ["groq"]}, 403),
        (tasks, {"privacy_level": "high", "ai_mode": "hybrid", "allowed_providers": ["groq"]}, 200),
        (tasks, {"privacy_level": "high", "ai_mode": "hybrid", "allowed_providers": ["groq", "openai"]}, 403),
        (tasks, {"privacy_level": "high", "ai_mode": "hybrid"}, 403),
        (tasks, {"privacy_level": "high", "allowed_providers": ["groq"]}, 403),
        (tasks, {}, 403),
        (owner, {}, 200),
        (tasks, {"ai_mode": "local"}, 200),
        (owner, {"ai_mode": "cloud"}, 200),
    ]
    for key, body, expected in steps:
        assert (await intake.call("PUT", ann, body, key=key))[0] == expected, body
    assert (await intake.call("GET", ann, key=owner))[0] == 200
    assert (await intake.call("POST", TASKS, {"prompt": "Hi"}, key=owner))[0] == 403


async def test_of_many_changes_at_once_none_lowers_what_another_raised(bed: Bed) -> None:
    intake = await bed.intake()
    tasks = await made_key(intake, "tasks")
    levels = ["standard", "high", "low", "standard", "high", "low"]
    await asyncio.gather(
        *(intake.call("PUT", f"{PREFS}?user=ann", {"privacy_level": level}, key=tasks) for level in levels)
    )
    _, shown, _ = await intake.call("GET", f"{PREFS}?user=ann", key=tasks)
    assert shown["privacy_level"] == "high"


class HeldAppends:
    """A connection that appends nothing while it is held."""

    def __init__(self) -> None:
        self.held = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()

    async def call(self, request: NetworkRequest, perform: Callable[[], T]) -> T:
        if request.operation is Operation.APPEND:
            self.held.set()
            await self.open.wait()
        return perform()


@pytest.mark.parametrize(
    ("slow", "quick", "allowed"),
    [
        ({"privacy_level": "standard"}, {"privacy_level": "high"}, False),
        ({"ai_mode": "hybrid"}, {"ai_mode": "local"}, False),
        ({"allowed_providers": ["groq", "openai"]}, {"allowed_providers": ["groq"]}, False),
        ({"privacy_level": "high"}, {"ai_mode": "local"}, False),
        ({"privacy_level": "high"}, {"privacy_level": "standard"}, True),
        ({"ai_mode": "local"}, {}, True),
    ],
)
async def test_a_change_that_another_intake_overtakes_lowers_nothing(
    bed: Bed, slow: dict[str, Any], quick: dict[str, Any], allowed: bool
) -> None:
    network = HeldAppends()
    first, second = await bed.intake(), await bed.intake(instance_id="intake-b", network=network)
    key = await made_key(first, "tasks")
    ann = f"{PREFS}?user=ann"
    await eventually(lambda: knows(second, key))
    network.held.clear()
    network.open.clear()
    overtaken = asyncio.create_task(second.call("PUT", ann, slow, key=key))
    await network.held.wait()
    assert (await first.call("PUT", ann, quick, key=key))[0] == 200
    await asyncio.sleep(0.05)
    network.open.set()
    assert (await overtaken)[0] == (200 if allowed else 403)
    expected = slow if allowed else quick
    for intake in (first, second):

        async def holds(intake: Running = intake) -> bool:
            _, shown, _ = await intake.call("GET", ann, key=key)
            return all(shown[name] == value for name, value in expected.items() if name != "allowed_providers")

        await eventually(holds)
    (*_, last) = bed.cluster.records(f"headrace.{PREFERENCES.name}")
    stored = await bed.codec.read(Preferences, last.value, Origin(last.topic, last.partition, last.offset))
    assert list(stored.allowed_providers) == expected.get("allowed_providers", [])


async def knows(intake: Running, key: str) -> bool:
    return (await intake.call("GET", PREFS, key=key))[0] == 200


@pytest.mark.parametrize(
    ("query", "body", "headers"),
    [
        ("?user=ann", {"user": "bob"}, {}),
        ("", {"user": "bob"}, {}),
        ("?user=ann&user=bob", {}, {}),
        ("?user=ann", {}, {"X_Headrace_User": "bob"}),
    ],
)
async def test_preferences_for_two_users_at_once_are_nobodys(
    bed: Bed, query: str, body: dict[str, Any], headers: dict[str, str]
) -> None:
    intake = await bed.intake()
    status, problem, _ = await intake.call("PUT", PREFS + query, {"ai_mode": "local", **body}, **headers)
    assert (status, problem["type"]) == (400, "urn:headrace:problem:contradiction")
    assert not bed.cluster.records(f"headrace.{PREFERENCES.name}")
    assert (await intake.call("PUT", f"{PREFS}?user=ann", {"user": "ann"}, X_Headrace_User="ann"))[0] == 200


async def test_openai_clients_get_their_kind_of_error(bed: Bed) -> None:
    intake = await bed.intake()
    key = await made_key(intake, "tasks", "preferences")
    await intake.call("PUT", PREFS, {"privacy_level": "high"}, key=key)
    async with openai.AsyncOpenAI(api_key=key, base_url=f"{intake.url}/v1", max_retries=0) as ai:
        with pytest.raises(openai.PermissionDeniedError, match="lower than sensitive"):
            await ai.chat.completions.create(
                model="auto", messages=[{"role": "user", "content": "Hi"}], extra_body={"privacy": "public"}
            )
