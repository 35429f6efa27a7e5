"""Idempotency keys, API keys, preferences, models, cancellations: what follows from what callers ask."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from headrace_contracts.events import (
    AccessKey,
    Mode,
    ModelStatus,
    NodeStatus,
    Place,
    Preferences,
    Privacy,
    PrivacyLevel,
)
from headrace_contracts.floors import Party
from headrace_intake.decide import cancelling, keys, models, preferences
from headrace_intake.decide.drafts import Submitter
from headrace_intake.decide.idempotency import Follow, SubmitAnew, Taken, content_digest, decide, parse_key
from headrace_intake.decide.refusals import Refusal
from headrace_intake.decide.tasks import TaskRequest, draft_of_task
from headrace_runtime.access import Caller
from pydantic import ValidationError

MINE = Taken("t-2", "d1", 2_000, 5, accepted=False)
FOUND = Taken("t-1", "d1", 1_000, 3, accepted=True)


def test_a_free_key_is_a_new_task() -> None:
    assert decide(MINE, None, in_flight_here=False) == SubmitAnew("t-2", 2_000, 5, repeated=False)


def test_the_same_again_is_the_same_task() -> None:
    assert decide(MINE, FOUND, in_flight_here=False) == Follow("t-1", 1_000, 3)
    assert decide(MINE, replace(FOUND, accepted=False), in_flight_here=True) == Follow("t-1", 1_000, 3)


def test_a_task_that_may_never_have_been_submitted_is_submitted_again_as_the_same_event() -> None:
    unsure = replace(FOUND, accepted=False)
    assert decide(MINE, unsure, in_flight_here=False) == SubmitAnew("t-1", 1_000, 3, repeated=True)


@pytest.mark.parametrize("accepted", [True, False])
def test_other_content_under_the_same_key_is_a_conflict(accepted: bool) -> None:
    with pytest.raises(Refusal) as refused:
        decide(MINE, replace(FOUND, digest="d2", accepted=accepted), in_flight_here=False)
    assert (refused.value.status, refused.value.kind) == (409, "idempotency-conflict")


def test_the_digest_knows_the_door_and_the_content_but_not_the_order_of_fields() -> None:
    one = content_digest("tasks", {"a": 1, "b": [1, 2]})
    assert one == content_digest("tasks", {"b": [1, 2], "a": 1})
    assert one != content_digest("chat", {"a": 1, "b": [1, 2]})
    assert one != content_digest("tasks", {"a": 1, "b": [2, 1]})


@pytest.mark.parametrize(("given", "key"), [("abc", "abc"), ('"abc"', "abc"), ('"', '"'), ('""', '""')])
def test_a_key_may_be_quoted_as_the_draft_has_it(given: str, key: str) -> None:
    assert parse_key([given]) == key
    assert parse_key([]) is None


@pytest.mark.parametrize("given", [[""], ["x" * 256], ["a\tb"], ["ü"], ["a", "b"], ["a", "a"]])
def test_a_key_that_cannot_be_kept_is_refused(given: list[str]) -> None:
    with pytest.raises(Refusal):
        parse_key(given)


KEY = AccessKey(key_id="k1", tenant="acme", secret_hash="h1", scopes=("tasks",), created_at=10)


def test_a_new_key_has_everyday_scopes_and_shows_no_hash() -> None:
    made = keys.new_key(keys.KeyRequest(tenant="acme"), key_id="k", secret_hash="hash", now_ms=7)
    assert made.scopes == ("tasks", "skills", "costs")
    assert "hash" not in str(keys.document(made).values())
    assert keys.document(made)["revoked_at"] is None


@pytest.mark.parametrize(
    "body",
    [
        {"tenant": "a/b"},
        {"tenant": ""},
        {"tenant": "x" * 65},
        {"tenant": "-a"},
        {"tenant": "a", "scopes": []},
        {"tenant": "a", "scopes": ["root"]},
        {"tenant": "a", "requests_per_minute": 0},
        {"tenant": "a", "secret": "mine"},
    ],
)
def test_a_key_that_would_not_work_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        keys.KeyRequest.model_validate(body)


def test_the_bootstrap_key_is_stored_once() -> None:
    def stored(key: AccessKey | None, secret_hash: str = "h1") -> AccessKey | None:
        return keys.bootstrap_key(key, key_id="k1", secret_hash=secret_hash, tenant="default", now_ms=99)

    first = stored(None)
    assert first is not None
    assert (first.tenant, first.created_at) == ("default", 99)
    assert "admin" in first.scopes
    assert stored(KEY) is None
    assert stored(replace(KEY, revoked_at=50), "h2") is None
    mended = stored(KEY, "h2")
    assert mended is not None
    assert (mended.secret_hash, mended.tenant, mended.created_at) == ("h2", "acme", 10)


def test_preferences_of_a_user_raise_those_of_the_tenant() -> None:
    of_user = Preferences(tenant="acme", user="ann", updated_at=1)
    of_tenant = Preferences(tenant="acme", updated_at=2)
    assert preferences.effective("acme", "ann", of_user=of_user, of_tenant=of_tenant) == (of_user, "user")
    assert preferences.effective("acme", "ann", of_user=None, of_tenant=of_tenant) == (of_tenant, "tenant")
    assert preferences.effective("acme", "", of_user=of_tenant, of_tenant=of_tenant) == (of_tenant, "tenant")
    nothing, source = preferences.effective("acme", "ann", of_user=None, of_tenant=None)
    assert source == "default"
    assert preferences.document(nothing, "ann", source)["updated_at"] is None


TENANT = Preferences(
    tenant="acme", ai_mode=Mode.HYBRID, privacy_level=PrivacyLevel.STANDARD, allowed_providers=("groq", "anthropic"),
    updated_at=2,
)  # fmt: skip


@pytest.mark.parametrize(
    ("own", "mode", "level", "allowed"),
    [
        ({}, "hybrid", "standard", ["groq", "anthropic"]),
        ({"ai_mode": Mode.CLOUD, "privacy_level": PrivacyLevel.LOW}, "hybrid", "standard", ["groq", "anthropic"]),
        ({"ai_mode": Mode.LOCAL, "privacy_level": PrivacyLevel.HIGH}, "local", "high", ["groq", "anthropic"]),
        ({"allowed_providers": ("openai", "groq")}, "hybrid", "standard", ["groq"]),
        ({"allowed_providers": ("openai",)}, "hybrid", "standard", []),
    ],
)
def test_what_applies_to_a_user_is_never_below_the_tenants(
    own: dict[str, Any], mode: str, level: str, allowed: list[str]
) -> None:
    of_user = Preferences(tenant="acme", user="ann", updated_at=1, **own)
    applied, source = preferences.effective("acme", "ann", of_user=of_user, of_tenant=TENANT)
    found = preferences.document(applied, "ann", source)
    assert source == "user"
    assert (found["ai_mode"], found["privacy_level"], found["allowed_providers"]) == (mode, level, allowed)


HIGH = Preferences(
    tenant="acme", user="ann", ai_mode=Mode.HYBRID, privacy_level=PrivacyLevel.STANDARD,
    allowed_providers=("groq", "anthropic"), updated_at=1,
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "lowers"),
    [
        ({"privacy_level": PrivacyLevel.LOW}, "privacy"),
        ({"privacy_level": None}, "privacy"),
        ({"ai_mode": Mode.CLOUD}, "mode"),
        ({"ai_mode": None}, "mode"),
        ({"allowed_providers": ("groq", "anthropic", "openai")}, "providers"),
        ({"allowed_providers": ("openai",)}, "providers"),
        ({"allowed_providers": ()}, "providers"),
        ({"allowed_providers": ("groq",), "preferred_provider": "openai"}, "providers"),
        ({"privacy_level": None, "ai_mode": None, "allowed_providers": ()}, "privacy, mode, providers"),
        ({"privacy_level": PrivacyLevel.HIGH, "ai_mode": Mode.CLOUD}, "mode"),
    ],
)
def test_a_users_preferences_are_lowered_only_with_the_scope_for_it(changes: dict[str, Any], lowers: str) -> None:
    after = replace(HIGH, **changes)
    refusal = preferences.change_refused(Party.TASKS_KEY, HIGH, after)
    assert refusal is not None
    assert (refusal.status, refusal.kind) == (403, "scope-missing")
    assert f"lowers: {lowers};" in refusal.detail
    for party in (Party.PREFERENCES_KEY, Party.ADMIN_KEY):
        assert preferences.change_refused(party, HIGH, after) is None


@pytest.mark.parametrize(
    ("before", "changes"),
    [
        (HIGH, {}),
        (HIGH, {"privacy_level": PrivacyLevel.HIGH, "ai_mode": Mode.LOCAL, "allowed_providers": ("groq",)}),
        (HIGH, {"preferred_provider": "groq"}),
        (None, {}),
        (None, {"privacy_level": PrivacyLevel.LOW, "ai_mode": Mode.CLOUD, "allowed_providers": ()}),
    ],
)
def test_a_users_preferences_are_raised_with_the_scope_tasks(
    before: Preferences | None, changes: dict[str, Any]
) -> None:
    assert preferences.change_refused(Party.TASKS_KEY, before, replace(HIGH, **changes)) is None


@pytest.mark.parametrize(
    "after", [TENANT, replace(TENANT, privacy_level=PrivacyLevel.HIGH), replace(TENANT, ai_mode=None)]
)
def test_a_tenants_preferences_are_changed_only_with_the_scope_for_it(after: Preferences) -> None:
    refusal = preferences.change_refused(Party.TASKS_KEY, TENANT, after)
    assert refusal is not None
    assert "preferences" in refusal.detail
    assert preferences.change_refused(Party.PREFERENCES_KEY, TENANT, after) is None


@pytest.mark.parametrize(
    ("scopes", "party"),
    [
        ({"tasks"}, Party.TASKS_KEY),
        ({"tasks", "preferences"}, Party.PREFERENCES_KEY),
        ({"preferences"}, Party.PREFERENCES_KEY),
        ({"admin", "tasks"}, Party.ADMIN_KEY),
    ],
)
def test_a_caller_is_what_its_key_says(scopes: set[str], party: Party) -> None:
    assert preferences.party_of(Caller("acme", "k", frozenset(scopes))) is party


def test_a_preferences_record_says_who_wanted_what() -> None:
    wanted = preferences.PreferencesIn.model_validate(
        {
            "ai_mode": "local",
            "privacy_level": "high",
            "preferred_provider": "groq",
            "allowed_providers": ["a", "a", "b"],
        }
    )
    record = preferences.record(wanted, tenant="acme", user="ann", key_id="k1", now_ms=5)
    assert (record.ai_mode, record.privacy_level) == (Mode.LOCAL, PrivacyLevel.HIGH)
    assert record.allowed_providers == ("a", "b")
    assert (record.updated_by, record.updated_at) == ("k1", 5)
    assert preferences.key_of("acme", "ann") == "acme/ann"


@pytest.mark.parametrize("given", [["x" * 201], ["a\nb"], ["ann", "bob"], ["ann", "ann", ""]])
def test_a_user_that_cannot_be_a_key_is_refused(given: list[str]) -> None:
    with pytest.raises(Refusal):
        preferences.parse_user(given)


def test_a_user_may_be_named_in_every_place_if_it_is_the_same() -> None:
    assert preferences.parse_user([]) == ""
    assert preferences.parse_user(["ann", "ann"]) == "ann"
    preferences.expect_same_user("ann", "ann", ["ann"])
    for user, body, headers in (("ann", "bob", []), ("", "bob", []), ("ann", None, ["bob"]), ("", None, ["ann"])):
        with pytest.raises(Refusal) as refused:
            preferences.expect_same_user(user, body, headers)
        assert (refused.value.status, refused.value.kind) == (400, "contradiction")


def node(name: str, *, provider: str = "ollama", place: Place = Place.LOCAL, **changes: Any) -> NodeStatus:
    status = NodeStatus(
        node=name,
        place=place,
        provider=provider,
        healthy=True,
        models=(ModelStatus(name="phi3"),),
        valid_for_ms=1_000,
        reported_at=10_000,
    )
    return replace(status, **changes)


def test_models_are_those_that_healthy_nodes_offer_now() -> None:
    found = models.offered(
        [
            node("b"),
            node("a", simulated=True),
            node("a", worker="another"),
            node("sick", healthy=False, models=(ModelStatus(name="gone"),)),
            node("silent", reported_at=8_999, models=(ModelStatus(name="gone"),)),
            node("groq", provider="groq", place=Place.CLOUD, models=(ModelStatus(name="llama"),)),
        ],
        now_ms=10_000,
    )
    assert list(found) == ["auto", "ollama/phi3", "groq/llama"]
    assert found["ollama/phi3"]["headrace"] == {"place": "local", "nodes": ["a", "b"], "simulated": True}
    assert found["groq/llama"]["owned_by"] == "groq"


def test_a_cloud_provider_is_one_also_while_it_is_away() -> None:
    away = node("groq", provider="groq", place=Place.CLOUD, healthy=False, reported_at=0)
    odd = node("b", provider="both", place=Place.CLOUD)
    assert models.provider_places([node("a"), away, odd, replace(odd, place=Place.LOCAL)]) == {
        "ollama": Place.LOCAL, "groq": Place.CLOUD, "both": Place.CLOUD,
    }  # fmt: skip


def test_a_refused_submission_is_on_record_with_class_and_provider() -> None:
    draft = draft_of_task(
        TaskRequest(prompt="x", privacy=Privacy.SENSITIVE, model="groq/llama", user="ann", subject="p")
    )
    origin = Submitter(task_id="t", tenant="acme", key_id="k", now_ms=3, reply_partition=0)
    record = cancelling.refused(draft, origin, Refusal(400, "privacy-contradiction", "because"))
    assert (record.action, record.allowed, record.privacy) == ("refuse", False, Privacy.SENSITIVE)
    assert (record.provider, record.model, record.reason) == ("groq", "llama", "because")
    assert (record.user, record.subject, record.key_id, record.recorded_at) == ("ann", "p", "k", 3)


def test_asking_twice_to_stop_a_task_is_asking_once() -> None:
    assert cancelling.cancellation_id("t") == cancelling.cancellation_id("t") != cancelling.cancellation_id("u")
    with pytest.raises(Refusal):
        cancelling.parse_reason("x" * 201)
