"""What a worker answers in time when it gets more than it can do."""

from __future__ import annotations

import pytest
from headrace_testing.overload import Answers, Demand, NodePlan, Overloaded

SLOTS, SECONDS, SPREAD = 4, 2.0, 0.5
SINCE, UNTIL = 80.0, 280.0
CAPACITY = SLOTS / SECONDS * (UNTIL - SINCE)


def run(load: float, spread: float = 0.0, **neighbour: float) -> Answers:
    """A node that gets `load` times what it can do, and perhaps another tenant's tasks beside it."""
    demands = [
        Demand(model="m", rate=share * SLOTS / SECONDS, seconds=SECONDS, spread=spread, deadline=40.0, tenant=tenant)
        for tenant, share in {"acme": load, **neighbour}.items()
    ]
    return Overloaded({"node": NodePlan(slots=SLOTS, models=["m"])}, demands).run(UNTIL)


def goodput(answers: Answers) -> float:
    """Answers in time, as a share of what the node can do."""
    return answers.number("m", SINCE, UNTIL) / CAPACITY


@pytest.mark.parametrize("spread", [0.0, SPREAD], ids=["alike", "of different length"])
@pytest.mark.parametrize("load", [1.2, 1.5])
def test_what_a_node_answers_in_time_does_not_fall_with_the_load(load: float, spread: float) -> None:
    assert goodput(run(load, spread)) >= 0.9


def test_what_cannot_be_done_is_told_while_there_is_time_to_go_elsewhere() -> None:
    answers = run(1.5)
    assert answers.ends["m", "deadline_passed"] == 0
    assert answers.told
    assert min(answers.told) >= SECONDS - 0.01


def test_a_tenant_in_a_queue_with_a_greedy_one_gets_its_answers() -> None:
    answers = run(3.0, bolt=0.2)
    mine = answers.number("m", SINCE, UNTIL, "bolt")
    assert mine >= 0.95 * 0.2 * CAPACITY * 0.85, "its tasks come at random: a few less than on average"
    assert goodput(answers) >= 0.9


def test_an_idle_node_answers_at_once_while_hundreds_wait_for_a_slow_one() -> None:
    """64 attempts may be in flight, and more wait for the slow model than that."""
    nodes = {"slow": NodePlan(slots=2, models=["large"]), "idle": NodePlan(slots=4, models=["small"])}
    demands = [
        Demand(model="large", rate=1.0, seconds=20.0, deadline=400.0, tenant="acme", bursts=[(1.0, 300)]),
        Demand(model="small", rate=0.5, seconds=1.0, deadline=10.0, tenant="bolt"),
        Demand(model="small", rate=0.5, seconds=1.0, deadline=10.0, tenant="acme"),
    ]
    answers = Overloaded(nodes, demands, attempt_seconds=400.0).run(100.0)
    waits = [wait for (_, model), waits in answers.waits.items() if model == "small" for wait in waits]
    assert len(waits) >= 70
    assert sum(wait < 1.1 for wait in waits) >= 0.95 * len(waits), "but for those that come when four are running"
    assert max(waits) < 2.0
    assert answers.number("large", 0.0, 100.0) >= 8


def test_goodput_does_not_fall_at_ten_times_the_load() -> None:
    assert goodput(run(10.0, SPREAD)) >= 0.85
