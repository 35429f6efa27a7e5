"""Who is refused first when there is too much for all."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from headrace_contracts.events import Lane
from headrace_intake.decide import live_tasks
from headrace_intake.decide.backlogs import PRESSED_MS, asked_for
from headrace_intake.decide.live_tasks import LiveTasksHere
from headrace_intake.decide.shedding import ABOVE_SHARE, BATCH, BATCH_ABOVE_SHARE, RETRY_SECONDS, shed

INTERACTIVE = asked_for("m", None, None, Lane.INTERACTIVE)
OF_BATCH = asked_for("m", None, None, Lane.BATCH)


def refused_at(fullness: float, *, is_pressed: bool = False) -> list[tuple[Lane | None, bool]]:
    """The classes of tasks that are not taken on: lane, and whether the tenant has its share."""
    return [
        (lane, has_its_share)
        for lane, has_its_share in itertools.product((Lane.BATCH, Lane.INTERACTIVE, None), (True, False))
        if shed(fullness, lane, share=3, has_its_share=has_its_share, is_pressed=is_pressed)
    ]


def test_the_fuller_it_is_the_more_is_refused_in_the_order_of_worth() -> None:
    expected: list[tuple[float, list[tuple[Lane | None, bool]]]] = [
        (0.0, []),
        (BATCH_ABOVE_SHARE, [(Lane.BATCH, True)]),
        (BATCH, [(Lane.BATCH, True), (Lane.BATCH, False)]),
        (ABOVE_SHARE, [(Lane.BATCH, True), (Lane.BATCH, False), (Lane.INTERACTIVE, True), (None, True)]),
    ]
    for (fullness, classes), (following, _) in itertools.pairwise([*expected, (1.01, [])]):
        assert refused_at(fullness) == classes
        assert refused_at(following - 0.001) == classes


def test_the_batch_lane_does_not_compete_with_interactive_tasks_that_are_refused() -> None:
    assert refused_at(0.0, is_pressed=True) == [(Lane.BATCH, True), (Lane.BATCH, False)]


def test_a_refusal_says_why_and_when_to_come_back() -> None:
    above = shed(0.95, None, share=3, has_its_share=True, is_pressed=False)
    assert above is not None
    assert (above.status, above.kind) == (429, "above-share")
    assert above.headers == {
        "RateLimit-Policy": '"share";q=3;qu="concurrent-requests"',
        "RateLimit": f'"share";r=0;t={RETRY_SECONDS}',
        "Retry-After": str(RETRY_SECONDS),
    }
    below = shed(0.95, Lane.BATCH, share=3, has_its_share=False, is_pressed=False)
    assert below is not None
    assert (below.status, below.kind, below.headers["Retry-After"]) == (503, "overloaded", str(RETRY_SECONDS))


def with_tasks(counts: dict[str, int], weights: dict[str, int], asked: Any = INTERACTIVE) -> LiveTasksHere:
    found = LiveTasksHere(lambda tenant: weights.get(tenant, 1))
    for tenant, count in counts.items():
        for number in range(count):
            found.add(f"{tenant}-{number}".encode(), tenant, asked, 0)
    return found


@pytest.mark.parametrize(
    ("counts", "weights", "have"),
    [
        ({"a": 10, "b": 2}, {}, "a"),
        ({"a": 10, "b": 2}, {"a": 9}, "b"),
        ({"a": 8, "b": 2}, {"a": 4}, "ab"),
        ({"a": 1}, {}, "a"),
        ({}, {}, ""),
    ],
)
def test_a_share_is_by_weight_among_those_who_have_tasks(
    monkeypatch: pytest.MonkeyPatch, counts: dict[str, int], weights: dict[str, int], have: str
) -> None:
    monkeypatch.setattr(live_tasks, "MOST_TASKS", max(sum(counts.values()), 1))
    found = with_tasks(counts, weights)

    refused = {tenant: found.shed(tenant, None, 0.95, 0) for tenant in "abc"}

    assert "".join(tenant for tenant, refusal in refused.items() if refusal is not None) == have


def test_fullness_is_of_tasks_or_of_bytes_whichever_is_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_tasks, "MOST_TASKS", 10)
    assert with_tasks({"a": 7}, {}).shed("a", Lane.BATCH, 0.0, 0) is not None
    assert with_tasks({"a": 6}, {}).shed("a", Lane.BATCH, 0.0, 0) is None
    assert with_tasks({"a": 1}, {}).shed("a", Lane.BATCH, 0.75, 0) is not None


def answered(found: LiveTasksHere, tenant: str, count: int) -> None:
    for number in range(count):
        found.ended(f"{tenant}-{number}".encode(), 100 * (number + 1), served=True)


def test_refused_interactive_tasks_press_the_batch_lane_of_their_tenant_for_a_while() -> None:
    found = with_tasks({"greedy": 60, "other": 2}, {})
    answered(found, "greedy", 20)
    now = 2_000
    assert found.shed("greedy", Lane.BATCH, 0.0, now) is None

    refusal = found.overload("greedy", INTERACTIVE, 1, 1.0, now)

    assert refusal is not None
    assert refusal.status == 429
    assert found.shed("greedy", Lane.BATCH, 0.0, now) is not None
    assert found.shed("greedy", Lane.INTERACTIVE, 0.0, now) is None
    # One that wants too much holds nobody else up.
    assert found.shed("other", Lane.BATCH, 0.0, now) is None
    assert found.shed("greedy", Lane.BATCH, 0.0, now + PRESSED_MS) is None


def test_when_tenants_below_their_share_are_refused_too_all_batches_wait() -> None:
    found = with_tasks({"modest": 60, "greedy": 200}, {})
    answered(found, "modest", 20)

    refusal = found.overload("modest", INTERACTIVE, 1, 1.0, 2_000)

    assert refusal is not None
    assert refusal.status == 503
    assert found.is_pressed("somebody", 2_000)


def test_what_nothing_answers_and_what_is_of_the_batch_lane_presses_nobody() -> None:
    in_vain = with_tasks({"a": 30}, {})
    for number in range(20):
        in_vain.ended(f"a-{number}".encode(), 100 * (number + 1), served=False)
    assert in_vain.overload("a", INTERACTIVE, 1, 1.0, 2_000) is not None
    assert not in_vain.is_pressed("a", 2_000)

    batch = with_tasks({"a": 60}, {}, OF_BATCH)
    answered(batch, "a", 20)
    assert batch.overload("a", OF_BATCH, 1, 1.0, 2_000) is not None
    assert not batch.is_pressed("a", 2_000)


def test_few_are_remembered_as_pressed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_tasks, "_MOST_PRESSED", 3)
    found = LiveTasksHere()
    for number in range(10):
        found._press(f"t{number}", number * PRESSED_MS, all_of_them=False)
    assert len(found._pressed) <= 3
    assert found.is_pressed("t9", 9 * PRESSED_MS)
