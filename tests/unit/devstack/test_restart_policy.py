"""When a part is started again."""

from dataclasses import replace

from headrace_devstack.restart import RestartAfter, RestartPolicy, RestartState, StopRestarting, on_exit, start_patience

POLICY = RestartPolicy(first=1.0, factor=2.0, longest=10.0, forget_after=60.0, tries_before_healthy=2)


def delays(*healthy_for: float | None) -> list[float | None]:
    state, found = RestartState(was_healthy=True), list[float | None]()
    for seconds in healthy_for:
        state, decision = on_exit(state, POLICY, healthy_for=seconds)
        found.append(decision.seconds if isinstance(decision, RestartAfter) else None)
    return found


def test_delays_double_up_to_the_longest() -> None:
    assert delays(1.0, 1.0, None, 1.0, None, 1.0) == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_a_long_healthy_run_is_forgiven() -> None:
    assert delays(1.0, 1.0, 60.0, 1.0) == [1.0, 2.0, 1.0, 2.0]


def test_a_part_that_never_became_healthy_is_given_up() -> None:
    once, first = on_exit(RestartState(), POLICY, healthy_for=None)
    _, second = on_exit(once, POLICY, healthy_for=None)
    assert (first, second) == (RestartAfter(1.0), StopRestarting(2))


def test_a_part_that_was_healthy_once_is_never_given_up() -> None:
    state, _ = on_exit(RestartState(), POLICY, healthy_for=0.0)
    for _ in range(200):
        state, decision = on_exit(state, POLICY, healthy_for=None)
        assert isinstance(decision, RestartAfter)
        assert decision.seconds <= POLICY.longest
    assert state == replace(state, total=201, was_healthy=True)


def test_a_part_that_could_run_gets_more_time_to_come_back_each_time() -> None:
    assert start_patience(60.0, RestartState()) == 60.0
    assert start_patience(60.0, RestartState(in_a_row=1)) == 60.0  # never healthy: the stack's start shall fail soon
    assert [start_patience(60.0, RestartState(in_a_row=n, was_healthy=True)) for n in (1, 2, 9)] == [120, 240, 3840]
