"""API keys and preferences over HTTP, and what they allow."""

from __future__ import annotations

from typing import Any

import pytest
from headrace_runtime.access import make_key
from headrace_testing.intake_bed import BOOTSTRAP_KEY, Bed, Running
from headrace_testing.waiting import eventually

KEYS = "headrace.access.keys"


async def made_key(intake: Running, **body: Any) -> str:
    status, made, _ = await intake.call("POST", "/v1/keys", {"tenant": "acme", **body})
    assert status == 201
    return str(made["key"])


async def test_a_new_key_works_at_once_and_is_shown_once(bed: Bed) -> None:
    intake = await bed.intake()
    status, made, headers = await intake.call("POST", "/v1/keys", {"tenant": "acme", "name": "ci"})
    assert (status, headers["Cache-Control"]) == (201, "no-store")
    assert made["scopes"] == ["tasks", "skills", "costs"]
    status, _, _ = await intake.call("POST", "/v1/tasks", {"prompt": "Hi"}, key=made["key"], Prefer="wait=5")
    assert status == 200
    assert bed.router.tasks[0].task.tenant == "acme"
    assert bed.router.tasks[0].task.key_id == made["id"]
    _, listed, _ = await intake.call("GET", "/v1/keys?tenant=acme")
    assert [key["id"] for key in listed["keys"]] == [made["id"]]
    assert "key" not in listed["keys"][0]
    secret = made["key"].rpartition("_")[2]
    assert not any(secret.encode() in (record.value or b"") for record in bed.cluster.records(KEYS))


async def test_a_revoked_key_is_refused_from_then_on(bed: Bed) -> None:
    intake = await bed.intake()
    key = await made_key(intake)
    key_id = key.split("_")[1]
    assert (await intake.call("DELETE", f"/v1/keys/{key_id}"))[0] == 204
    status, problem, headers = await intake.call("GET", "/v1/preferences", key=key)
    assert (status, problem["type"]) == (401, "urn:headrace:problem:unauthorized")
    assert "Bearer" in headers["WWW-Authenticate"]
    assert (await intake.call("DELETE", f"/v1/keys/{key_id}"))[0] == 204
    _, listed, _ = await intake.call("GET", "/v1/keys?tenant=acme")
    assert listed["keys"][0]["revoked_at"] is not None
    assert (await intake.call("DELETE", "/v1/keys/nothing"))[0] == 404


@pytest.mark.parametrize("again", [False, True], ids=["while running", "found at the start"])
async def test_a_revoked_key_is_forgotten_and_as_invalid_as_before(bed: Bed, again: bool) -> None:
    kept = {"revoked_keys_days": 1e-9}
    bed_settings: dict[str, Any] = {} if again else kept
    async with bed.running(**bed_settings) as intake:
        gone, valid = await made_key(intake), await made_key(intake)
        ids = [each.split("_")[1] for each in (gone, valid, BOOTSTRAP_KEY)]
        assert (await intake.call("DELETE", f"/v1/keys/{ids[0]}"))[0] == 204
        # It ends with its own key.
        assert (await intake.call("DELETE", f"/v1/keys/{ids[2]}"))[0] == 401
    # Twice: what is forgotten stays so, and the bootstrap key stays revoked, with these settings and without them.
    for changes in (kept, {**kept, "bootstrap_key": None}, kept):
        async with bed.running(**changes) as intake:

            async def forgotten() -> bool:
                return bed.cluster.records(KEYS)[-1].value is None

            await eventually(forgotten)
            assert (await intake.call("POST", "/v1/tasks", {"prompt": "Hi"}, key=valid))[0] == 202
            for refused in (gone, BOOTSTRAP_KEY):
                assert (await intake.call("POST", "/v1/tasks", {"prompt": "Hi"}, key=refused))[0] == 401
    removed = [record.key for record in bed.cluster.records(KEYS) if record.value is None]
    assert removed == [ids[0].encode()]


async def test_keys_are_for_admins(bed: Bed) -> None:
    intake = await bed.intake()
    key = await made_key(intake)
    for method, path in (("POST", "/v1/keys"), ("GET", "/v1/keys"), ("DELETE", "/v1/keys/x")):
        status, problem, _ = await intake.call(method, path, {"tenant": "acme"}, key=key)
        assert (status, problem["type"]) == (403, "urn:headrace:problem:scope-missing")


@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/tasks"), ("GET", "/v1/tasks"), ("GET", "/v1/models")])
async def test_each_door_asks_for_its_scope(bed: Bed, method: str, path: str) -> None:
    intake = await bed.intake()
    key = await made_key(intake, scopes=["skills"])
    assert (await intake.call(method, path, {"prompt": "Hi"} if method == "POST" else None, key=key))[0] == 403


async def test_the_bootstrap_key_is_stored_once_however_often_intake_starts(bed: Bed) -> None:
    for _ in range(3):
        async with bed.running() as intake:
            assert (await intake.call("GET", "/v1/keys"))[0] == 200
    assert len(bed.cluster.records(KEYS)) == 1


async def test_a_revoked_bootstrap_key_stays_revoked(bed: Bed) -> None:
    other = str(make_key(bytes(range(1, 41))))
    async with bed.running(bootstrap_key=other):
        pass
    async with bed.running() as intake:
        assert (await intake.call("DELETE", f"/v1/keys/{other.split('_')[1]}"))[0] == 204
    async with bed.running(bootstrap_key=other) as intake:
        assert (await intake.call("GET", "/v1/keys", key=other))[0] == 401


async def test_an_intake_without_a_bootstrap_key_starts_too(bed: Bed) -> None:
    async with bed.running(bootstrap_key=None) as intake:
        assert (await intake.call("GET", "/v1/keys"))[0] == 401
    assert not bed.cluster.records(KEYS)


async def test_a_limited_key_is_told_its_limit_on_every_answer(bed: Bed) -> None:
    intake = await bed.intake()
    key = await made_key(intake, requests_per_minute=2)
    for remaining in (1, 0):
        status, _, headers = await intake.call("GET", "/v1/preferences", key=key)
        assert status == 200
        assert f"r={remaining};" in headers["RateLimit"]
    status, problem, headers = await intake.call("GET", "/v1/preferences", key=key)
    assert (status, problem["type"]) == (429, "urn:headrace:problem:rate-limit-exceeded")
    assert int(headers["Retry-After"]) == 30
    assert (await intake.call("GET", "/v1/preferences"))[0] == 200


async def test_preferences_are_read_back_as_they_were_written(bed: Bed) -> None:
    intake = await bed.intake()
    wanted = {
        "ai_mode": "hybrid",
        "privacy_level": "standard",
        "preferred_provider": "groq",
        "allowed_providers": ["groq", "anthropic"],
    }
    status, before, _ = await intake.call("GET", "/v1/preferences")
    assert (status, before["source"], before["ai_mode"]) == (200, "default", None)
    status, put, _ = await intake.call("PUT", "/v1/preferences", wanted)
    assert status == 200
    assert {name: put[name] for name in wanted} == wanted
    status, shown, _ = await intake.call("GET", "/v1/preferences")
    assert shown == put
    assert shown["updated_by"] == BOOTSTRAP_KEY.split("_")[1]


async def test_a_users_own_preferences_go_before_the_tenants(bed: Bed) -> None:
    intake = await bed.intake()
    await intake.call("PUT", "/v1/preferences", {"ai_mode": "cloud"})
    _, of_ann, _ = await intake.call("GET", "/v1/preferences?user=ann")
    assert (of_ann["source"], of_ann["ai_mode"], of_ann["user"]) == ("tenant", "cloud", "ann")
    await intake.call("PUT", "/v1/preferences?user=ann", {"ai_mode": "local"})
    _, of_ann, _ = await intake.call("GET", "/v1/preferences?user=ann")
    assert (of_ann["source"], of_ann["ai_mode"]) == ("user", "local")
    (_, last) = bed.cluster.records("headrace.preferences")
    assert last.key == b"default/ann"


async def test_preferences_of_one_tenant_are_not_anothers(bed: Bed) -> None:
    intake = await bed.intake()
    await intake.call("PUT", "/v1/preferences", {"ai_mode": "cloud"})
    _, others, _ = await intake.call("GET", "/v1/preferences", key=await made_key(intake))
    assert (others["tenant"], others["source"]) == ("acme", "default")


@pytest.mark.parametrize(
    "body", [{"ai_mode": "moon"}, {"privacy_level": "sensitive"}, {"allowed": []}, {"allowed_providers": [""]}, []]
)
async def test_preferences_that_mean_nothing_are_refused(bed: Bed, body: Any) -> None:
    intake = await bed.intake()
    assert (await intake.call("PUT", "/v1/preferences", body))[0] == 400
    assert not bed.cluster.records("headrace.preferences")


async def test_another_intake_sees_them_too(bed: Bed) -> None:
    first, second = await bed.intake(), await bed.intake(instance_id="intake-b")
    await first.call("PUT", "/v1/preferences", {"ai_mode": "local"})
    await second.call("PUT", "/v1/preferences?user=x", {})
    _, shown, _ = await second.call("GET", "/v1/preferences")
    assert shown["ai_mode"] == "local"


async def test_preferences_can_be_removed(bed: Bed) -> None:
    running = await bed.intake()
    assert (await running.call("PUT", "/v1/preferences?user=ann", {"privacy_level": "high"}))[0] == 200
    assert (await running.call("DELETE", "/v1/preferences?user=ann"))[0] == 204
    status, shown, _ = await running.call("GET", "/v1/preferences?user=ann")
    assert (status, shown["source"], shown["privacy_level"]) == (200, "default", None)
    assert (await running.call("DELETE", "/v1/preferences?user=ann"))[0] == 204


@pytest.mark.parametrize("who", ["?user=ann", ""])
async def test_a_key_without_the_scope_removes_nothing(bed: Bed, who: str) -> None:
    running = await bed.intake()
    made = (await running.call("POST", "/v1/keys", {"tenant": "default", "scopes": ["tasks"]}))[1]["key"]
    assert (await running.call("PUT", f"/v1/preferences{who}", {"privacy_level": "high"}))[0] == 200
    assert (await running.call("DELETE", f"/v1/preferences{who}", key=made))[0] == 403
    assert (await running.call("GET", f"/v1/preferences{who}"))[1]["privacy_level"] == "high"


async def test_a_tenant_has_a_quota_of_users_and_keys(bed: Bed) -> None:
    running = await bed.intake(preferences_per_tenant=3, keys_per_tenant=2)
    answers = [await running.call("PUT", f"/v1/preferences?user=u{n}", {"privacy_level": "high"}) for n in range(4)]
    assert [status for status, *_ in answers] == [200, 200, 200, 403]
    assert answers[-1][1]["type"] == "urn:headrace:problem:quota-exceeded"
    assert (await running.call("PUT", "/v1/preferences?user=u1", {"privacy_level": "standard"}))[0] == 200
    assert (await running.call("DELETE", "/v1/preferences?user=u0"))[0] == 204
    assert (await running.call("PUT", "/v1/preferences?user=u9", {"privacy_level": "high"}))[0] == 200
    made = [await running.call("POST", "/v1/keys", {"tenant": "acme"}) for _ in range(3)]
    assert [status for status, *_ in made] == [201, 201, 403]
    assert (await running.call("DELETE", f"/v1/keys/{made[0][1]['id']}"))[0] == 204
    assert (await running.call("POST", "/v1/keys", {"tenant": "acme"}))[0] == 201
