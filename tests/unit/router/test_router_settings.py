"""Settings that must fit together, the in-flight limit, and what decisions get to know of the world."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from headrace_contracts.events import NodeStatus, Place
from headrace_models.prices import load_price_book
from headrace_router.adapters.policy_file import load_policy
from headrace_router.adapters.routing_view import RoutingView
from headrace_router.decide.attempt_windows import AttemptWindow
from headrace_router.decide.tenant_quota import TenantQuota
from headrace_router.settings import RouterSettings
from headrace_runtime.settings import SettingsInvalid
from headrace_runtime.tenants import load_tenants
from headrace_testing.routing import LOCAL, NOW, NoPeers, preferences


def test_records_expire_before_a_successor_may_act(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = RouterSettings.load()
    assert settings.kafka_config()["delivery.timeout.ms"] == "5000"
    monkeypatch.setenv("HEADRACE_KAFKA_SESSION_TIMEOUT_MS", "8000")
    with pytest.raises(SettingsInvalid, match="within the session timeout of 8 s"):
        RouterSettings.load()
    monkeypatch.setenv("HEADRACE_PRODUCE_WITHIN_SECONDS", "3.5")
    assert RouterSettings.load().kafka_config()["delivery.timeout.ms"] == "3500"


def test_refusing_unsigned_tasks_needs_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, pepper, problem in (
        ("refuse", "", "needs HEADRACE_KEY_PEPPER"),
        ("sometimes", "", "HEADRACE_UNSIGNED_SUBMISSIONS"),
        ("refuse", "a pepper for tests", None),
        ("accept", "", None),
        ("", "", None),
    ):
        monkeypatch.setenv("HEADRACE_UNSIGNED_SUBMISSIONS", value)
        monkeypatch.setenv("HEADRACE_KEY_PEPPER", pepper)
        if problem is None:
            assert RouterSettings.load().unsigned_submissions == (value or "accept")
        else:
            with pytest.raises(SettingsInvalid, match=problem):
                RouterSettings.load()


def test_a_bad_policy_or_price_book_is_told_before_anything_connects(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bad = tmp_path / "policy.yaml"
    bad.write_text("roles: {}")
    monkeypatch.setenv("HEADRACE_POLICY_FILE", str(bad))
    with pytest.raises(SettingsInvalid, match=r"HEADRACE_POLICY_FILE: .*policy\.yaml: line 1: defaults: is missing"):
        RouterSettings.load()
    monkeypatch.setenv("HEADRACE_POLICY_FILE", str(tmp_path / "none.yaml"))
    with pytest.raises(SettingsInvalid, match="No such file"):
        RouterSettings.load()
    monkeypatch.delenv("HEADRACE_POLICY_FILE")
    monkeypatch.setenv("HEADRACE_PRICE_FILE", str(bad))
    with pytest.raises(SettingsInvalid, match="HEADRACE_PRICE_FILE"):
        RouterSettings.load()


def test_the_world_shows_what_was_told_last() -> None:
    world = RoutingView(load_policy(None), load_price_book(), lambda: NOW)
    gains: list[int] = []
    world.on_gain(lambda: gains.append(1))
    assert not world.context(NoPeers(), "acme", "eve").fleet.nodes
    world.node_changed("w", LOCAL)
    world.node_changed("w", replace(LOCAL, busy=1))
    assert len(gains) == 1
    assert world.context(NoPeers(), "acme", "").fleet.offering("ollama", "gemma2:2b", Place.LOCAL, NOW)
    world.node_changed("w", None)
    assert not world.context(NoPeers(), "acme", "").fleet.nodes
    world.preferences_changed("acme/", preferences())
    world.preferences_changed("acme/eve", preferences(user="eve"))
    context = world.context(NoPeers(), "acme", "eve")
    assert context.user_preferences == preferences(user="eve")
    assert context.tenant_preferences == preferences()
    assert world.context(NoPeers(), "acme", "").user_preferences is None
    world.preferences_changed("acme/eve", None)
    assert world.context(NoPeers(), "acme", "eve").user_preferences is None


def test_workers_that_came_and_went_cost_a_report_nothing() -> None:
    now = NOW
    world = RoutingView(load_policy(None), load_price_book(), lambda: now)

    def nodes() -> list[NodeStatus]:
        return list(world.context(NoPeers(), "acme", "").fleet.nodes)

    for number in range(500):
        world.node_changed(f"gone/{number}", replace(LOCAL, worker=str(number)))
        world.node_changed(f"rented/{number}", replace(LOCAL, provider="rented", worker=str(number)))
    assert len(nodes()) == 1_000
    now += LOCAL.valid_for_ms
    alive = replace(LOCAL, reported_at=now)
    world.node_changed("here", alive)
    assert nodes()[0] == alive
    assert [node.provider for node in nodes()[1:]] == ["ollama", "rented"], "one of each provider, which is known"
    # One of them is back, is removed, and the rest is forgotten.
    back = replace(alive, provider="rented")
    world.node_changed("rented/7", back)
    assert back in nodes()
    world.node_changed("rented/7", None)
    assert back not in nodes()
    for number in range(500):
        world.node_changed(f"gone/{number}", None)
        world.node_changed(f"rented/{number}", None)
    assert nodes() == [alive]
    assert not world._provider_of
    assert len(world._expiring) == 2, "a key that is gone is looked at once more"
    # A report that follows in time is still looked after, and expires later.
    now += 1
    later = replace(alive, reported_at=now)
    world.node_changed("here", later)
    now = NOW + 2 * LOCAL.valid_for_ms
    world.node_changed("other", replace(later, worker="other", reported_at=now))
    assert later in nodes()
    assert not world._expired
    now += 1
    world.node_changed("other", replace(later, worker="other", reported_at=now))
    assert nodes()[-1] == later
    assert world._expired["ollama"] == {"here": later}


def test_the_file_of_tenants_is_checked_and_its_limits_go_before_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "tenants.yaml"
    monkeypatch.setenv("HEADRACE_TENANTS_FILE", str(file))
    file.write_text("default: {weight: none}")
    with pytest.raises(SettingsInvalid, match=r"default\.weight"):
        RouterSettings.load()
    file.write_text("{default: {live_bytes: 2000000}, tenants: {acme: {live_tasks: 7}, globex: {live_bytes: 3000000}}}")
    tenants = load_tenants(RouterSettings.load().tenants_file)
    view = RoutingView(load_policy(None), load_price_book(), lambda: NOW, TenantQuota(50, 60), tenants)
    assert [view.context(NoPeers(), name, "").quota for name in ("acme", "globex", "initech")] == [
        TenantQuota(7, 2_000_000), TenantQuota(50, 3_000_000), TenantQuota(50, 2_000_000),
    ]  # fmt: skip


def test_a_window_has_64_kib_for_each_attempt() -> None:
    assert AttemptWindow.of(RouterSettings.load().attempts_per_tenant) == AttemptWindow(256, 16 * 1024 * 1024)
