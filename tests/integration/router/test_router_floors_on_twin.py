"""What is written to Kafka directly is held to what tenant, user and role demand, and so is what is in flight."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from headrace_contracts import topics
from headrace_contracts.events import (
    AuditRecorded,
    Mode,
    Outcome,
    Place,
    Preferences,
    Privacy,
    PrivacyLevel,
    TaskStatus,
    TaskSubmitted,
)
from headrace_testing import routing
from headrace_testing.router_twin import PREFIX, Twin, end_of, now_ms

CLOUD = {"groq": routing.GROQ_NODE, "anthropic": routing.ANTHROPIC_NODE}


def written(number: int = 1, **fields: Any) -> TaskSubmitted:
    """A task as a foreign program writes it."""
    return routing.task(f"task-{number}", **{"submitted_at": now_ms(), **fields})


def demanded(user: str = "", **fields: Any) -> Preferences:
    return Preferences(tenant="acme", user=user, updated_at=1, **fields)


@pytest.mark.parametrize(
    ("tenant", "user", "fields", "code"),
    [
        (demanded(privacy_level=PrivacyLevel.HIGH), None, {"privacy": Privacy.PUBLIC}, "below_floor"),
        (demanded(privacy_level=PrivacyLevel.STANDARD), None, {"privacy": Privacy.PUBLIC}, "below_floor"),
        (demanded(ai_mode=Mode.LOCAL), demanded("eve", ai_mode=Mode.CLOUD), {"mode": Mode.CLOUD}, "below_floor"),
        (None, demanded("eve", privacy_level=PrivacyLevel.HIGH), {"privacy": Privacy.INTERNAL}, "below_floor"),
        (None, None, {"privacy": Privacy.PUBLIC, "role": "security_reviewer"}, "below_floor"),
        (None, None, {"privacy": Privacy.SENSITIVE, "mode": Mode.CLOUD}, "contradiction"),
        (demanded(privacy_level=PrivacyLevel.HIGH), None, {"model": routing.GROQ}, "privacy"),
    ],
)
async def test_a_record_that_asks_for_less_ends_as_failed_and_is_audited(
    tenant: Preferences | None, user: Preferences | None, fields: dict[str, Any], code: str
) -> None:
    async with Twin() as twin:
        twin.nodes |= CLOUD
        twin.work()
        router = twin.router()
        router.world.preferences_changed("acme/", tenant)
        router.world.preferences_changed("acme/eve", user)
        # A key's id in a record proves nothing.
        sent = [written(1, user="eve", **fields), written(2, user="eve", key_id="admin", **fields)]
        await twin.submit(*sent)
        await twin.until_completed(sent)
        await twin.quiet()
        for (end,) in twin.completed().values():
            assert end.failure is not None
            assert (end.status, end.failure.code, end.attempts) == (TaskStatus.FAILED, code, 0)
        assert twin.requests == []
        audited: list[AuditRecorded] = [
            twin.decode(AuditRecorded, record) for record in twin.cluster.records(PREFIX + topics.AUDIT_RECORDED.name)
        ]
        assert {(audit.task_id, audit.action, audit.allowed) for audit in audited} == {
            (task.task_id, "refuse", False) for task in sent
        }


@pytest.mark.parametrize(
    ("raised", "provider"),
    [
        (demanded(privacy_level=PrivacyLevel.HIGH), "ollama"),
        (demanded(ai_mode=Mode.LOCAL), "ollama"),
        (demanded(privacy_level=PrivacyLevel.STANDARD), "ollama"),
    ],
)
async def test_a_cached_answer_serves_no_task_of_which_more_is_demanded_by_now(
    raised: Preferences, provider: str
) -> None:
    async with Twin() as twin:
        twin.nodes = dict(CLOUD)
        twin.work()
        router = twin.router()
        router.world.preferences_changed("acme/", demanded(privacy_level=PrivacyLevel.LOW))
        await twin.submit(written(1))
        await twin.until_completed([written(1)])
        assert twin.requests[0].provider == "groq"
        router.world.node_changed("workstation", routing.LOCAL)
        await twin.submit(written(2))
        await twin.until_completed([written(2)])
        assert len(twin.requests) == 1, "an equal task is served from the cache"
        router.world.preferences_changed("acme/", raised)
        await twin.submit(written(3))
        await twin.until_completed([written(3)])
        assert [request.provider for request in twin.requests] == ["groq", provider]


@pytest.mark.parametrize("level", [PrivacyLevel.STANDARD, PrivacyLevel.HIGH])
@pytest.mark.parametrize("asked", [None, Privacy.PUBLIC])
async def test_a_follower_does_not_share_what_was_made_for_less_than_is_demanded_by_now(
    level: PrivacyLevel, asked: Privacy | None
) -> None:
    async with Twin() as twin:
        twin.nodes = dict(CLOUD)
        router = twin.router()
        router.world.preferences_changed("acme/", demanded(privacy_level=PrivacyLevel.LOW))
        sent = [written(number, privacy=asked) for number in (1, 2)]
        await twin.submit(*sent)
        await twin.until(lambda: len(twin.cluster.records(f"{PREFIX}work.cloud.batch")) == 1)
        router.world.preferences_changed("acme/", demanded(privacy_level=level))
        router.world.node_changed("workstation", routing.LOCAL)
        twin.work(lambda request: end_of(request))
        await twin.until_completed(sent)
        completed = twin.completed()
        ((first,), (second,)) = (completed[task.task_id] for task in sent)
        assert (first.status, first.provider) == (TaskStatus.SUCCEEDED, "groq")
        if asked is None:
            assert (second.status, second.provider) == (TaskStatus.SUCCEEDED, "ollama")
        else:
            assert second.failure is not None
            assert (second.status, second.failure.code) == (TaskStatus.FAILED, "below_floor")


async def test_a_local_attempt_is_all_that_a_raised_tenant_gets_on_a_retry() -> None:
    async with Twin() as twin:
        twin.nodes |= CLOUD
        router = twin.router()
        router.world.preferences_changed("acme/", demanded(privacy_level=PrivacyLevel.LOW, ai_mode=Mode.CLOUD))
        changed = demanded(privacy_level=PrivacyLevel.HIGH)

        def answer(request: Any) -> Any:
            if request.provider == "ollama":
                return end_of(request)
            router.world.preferences_changed("acme/", changed)
            return replace(end_of(request), **routing_failure())

        twin.work(answer)
        await twin.submit(written(1))
        await twin.until_completed([written(1)])
        assert [request.provider for request in twin.requests] == ["groq", "ollama"]
        assert twin.policy.place(twin.requests[-1].provider) is Place.LOCAL
        assert twin.requests[-1].privacy is Privacy.SENSITIVE


def routing_failure() -> dict[str, Any]:
    failed = routing.finished(Outcome.FAILED_PERMANENT)
    return {"outcome": failed.outcome, "failure": failed.failure, "content": None, "finish_reason": None}
