"""A policy that leaves no time for a fallback is refused where it is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from headrace_contracts.events import Lane
from headrace_router.adapters.policy_file import PolicyInvalid, load_policy, parse_policy
from headrace_router.settings import RouterSettings
from headrace_runtime.settings import SettingsInvalid


def text(timeout: str, deadlines: str, more: str = "") -> str:
    return (
        "defaults: {role: r}\n"
        f"deadlines: {{{deadlines}}}\n"
        f"attempts: {{timeout: {timeout}}}\n"
        "providers: {ollama: {place: local}}\n"
        'roles: {r: {models: ["ollama/small:1b"]}}\n' + more
    )


@pytest.mark.parametrize(
    ("timeout", "deadlines", "lanes", "figures"),
    [
        (
            "{interactive: 60_000, batch: 9}",
            "default: {interactive: 120_000, batch: 99}",
            "interactive",
            "60000 120000",
        ),
        ("{interactive: 9, batch: 50}", "default: {interactive: 99, batch: 99}", "batch", "50 99"),
        ("{interactive: 100, batch: 9}", "default: {interactive: 100, batch: 99}", "interactive", "100 200"),
        ("{interactive: 500, batch: 9}", "default: {interactive: 100, batch: 99}", "interactive", "500 1000"),
        (
            "{interactive: 60, batch: 9}",
            "default: {interactive: 200, batch: 99}, longest: 100",
            "interactive",
            "50 120",
        ),
        ("{interactive: 5, batch: 7}", "default: {interactive: 10, batch: 14}", "interactive batch", "5 10 7 14"),
    ],
)
def test_two_attempts_must_fit_before_the_deadline_of_their_lane(
    timeout: str, deadlines: str, lanes: str, figures: str
) -> None:
    with pytest.raises(PolicyInvalid) as refused:
        parse_policy(text(timeout, deadlines), "mine.yaml")
    message = str(refused.value)
    assert message.startswith("mine.yaml: line 3: attempts.timeout.")
    for lane in Lane:
        assert (f"attempts.timeout.{lane}: " in message) == (lane.value in lanes.split())
        assert (f"deadlines.default.{lane}" in message) == (lane.value in lanes.split())
    assert all(figure in message for figure in figures.split())


@pytest.mark.parametrize(
    ("timeout", "deadlines"),
    [
        ("{interactive: 45_000, batch: 1}", "default: {interactive: 120_000, batch: 3}"),
        ("{interactive: 49, batch: 49}", "default: {interactive: 99, batch: 99}"),
        ("{interactive: 1, batch: 1}", "default: {interactive: 3, batch: 9}, longest: 3"),
    ],
)
def test_what_fits_is_taken(timeout: str, deadlines: str) -> None:
    assert parse_policy(text(timeout, deadlines), "mine.yaml").version


def test_what_the_message_says_to_do_helps() -> None:
    parse_policy(text("{interactive: 59_999, batch: 9}", "default: {interactive: 120_000, batch: 99}"), "m")
    parse_policy(text("{interactive: 60_000, batch: 9}", "default: {interactive: 120_001, batch: 99}"), "m")


def test_without_a_second_attempt_there_is_nothing_to_leave_time_for() -> None:
    one = text("{interactive: 9, batch: 9}", "default: {interactive: 9, batch: 9}", "retry: {attempts: 1}\n")
    assert parse_policy(one, "m").retry.attempts == 1


def test_the_shipped_policy_leaves_time_in_each_lane() -> None:
    policy = load_policy(None)
    for lane in Lane:
        assert 2 * policy.attempts.timeout.of(lane) < policy.deadlines.default.of(lane)


def test_a_router_does_not_start_with_a_policy_without_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bad = tmp_path / "policy.yaml"
    bad.write_text(text("{interactive: 60_000, batch: 9}", "default: {interactive: 120_000, batch: 99}"))
    monkeypatch.setenv("HEADRACE_POLICY_FILE", str(bad))
    with pytest.raises(SettingsInvalid, match=r"HEADRACE_POLICY_FILE: .*attempts\.timeout\.interactive"):
        RouterSettings.load()
