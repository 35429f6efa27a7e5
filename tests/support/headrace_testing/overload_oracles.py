"""What must hold of a worker that gets more work than it can do, whatever the load."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

from headrace_contracts.events import Lane

from headrace_testing.overload import Answers, Attempted, Demand
from headrace_testing.overload_seeds import FEW, SECONDS, OverloadedWorld

WINDOW_SECONDS = 40.0
_SETTLED_SECONDS = 20.0
"""Until times are known, after the start and after the speed of a node has changed."""
_KNOWN_CALLS = 8
"""Answers of a node after which it must know what its model takes at least."""
_LEAST_USEFUL = 0.65
"""Share of a node's seconds that go into answers in time where calls of a model differ in length ninefold."""
_USEFUL_IF_ALIKE = 0.9
_ALIKE = 1.5
"""Calls are alike if the longest is so many times as long as the shortest at most."""
_TOLERANCE = 0.15
_HAND_OVER_SECONDS = 0.5

Spans = Sequence[tuple[float, float]]


def violations(world: OverloadedWorld) -> Sequence[str]:
    """All broken promises of a world."""
    answers = world.run()
    checks: tuple[Callable[[OverloadedWorld, Answers], Iterator[str]], ...] = (_unfair, _idle, _wasted, _told_too_late)
    if world.max_in_flight == FEW:
        # Out of few waiting attempts nobody can choose well, but none may keep a node idle.
        checks = (_idle,)
    return [f"seed {world.seed}: {what}" for check in checks for what in check(world, answers)]


def _windows(world: OverloadedWorld, node: str) -> Iterator[tuple[float, float]]:
    """Spans in which a node has one speed and knows it."""
    changes = world.changes(node)
    since = _SETTLED_SECONDS
    while since + WINDOW_SECONDS <= SECONDS:
        until = since + WINDOW_SECONDS
        if not any(since - _SETTLED_SECONDS < at < until for at in changes):
            yield since, until
        since += 10.0


def _unfair(world: OverloadedWorld, answers: Answers) -> Iterator[str]:
    """Tenants that wait for a node all the time get the same seconds of its slots for their weight, give or take the
    calls that are running."""
    for node, plan in world.nodes.items():
        demands = [one for one in world.demands if one.model in plan.models and one.lane is Lane.INTERACTIVE]
        for since, until in _windows(world, node):
            waiting = [one for one in demands if _waits_throughout(answers, one, since, until)]
            for one, other in combinations(waiting, 2):
                had = [_seconds(answers, node, each, since, until) / each.weight for each in (one, other)]
                # As many calls as there are slots may be running of each at either end, and one more be due. And whose
                # calls are all told at once that there is no time waits for nothing until the next ones come.
                allowed = (plan.slots + 1) * sum(_longest(each) / each.weight for each in (one, other))
                allowed += _TOLERANCE * max(had)
                if abs(had[0] - had[1]) > allowed:
                    yield (
                        f"{one.tenant} (weight {one.weight}) and {other.tenant} ({other.weight}) got {had[0]:.1f} and "
                        f"{had[1]:.1f} s of {node} for their weight from {since:.0f} to {until:.0f} s"
                    )


def _idle(world: OverloadedWorld, answers: Answers) -> Iterator[str]:
    """No slot is free for long while work for it waits."""
    for node, plan in world.nodes.items():
        waits = [_wait(one) for one in answers.attempts.values() if one.demand.model in plan.models]
        busy = [(one.began or 0.0, SECONDS if one.ended is None else one.ended) for one in answers.calls(node)]
        for at in range(5, int(SECONDS), 2):
            running = _number_at(busy, at)
            waiting = sum(since + _HAND_OVER_SECONDS < at < until for since, until in waits)
            if running < plan.slots and waiting:
                yield f"{node} runs {running} calls at {at} s, and has {plan.slots} slots and {waiting} waiting for it"


def _wasted(world: OverloadedWorld, answers: Answers) -> Iterator[str]:
    """While work waits, nearly all that a node does is answered in time."""
    for node, plan in world.nodes.items():
        demands = [one for one in world.demands if one.model in plan.models]
        for since, until in _windows(world, node):
            if not any(_waits_throughout(answers, one, since, until) for one in demands):
                continue
            useful = sum(
                _common(_call(one), since, until) for one in answers.calls(node) if one.in_time or one.ended is None
            )
            lengths = [each * one.seconds for one in demands for each in (1 - one.spread, 1 + one.spread)]
            least = _USEFUL_IF_ALIKE if max(lengths) <= _ALIKE * min(lengths) else _LEAST_USEFUL
            if useful < least * plan.slots * WINDOW_SECONDS:
                share = useful / plan.slots / WINDOW_SECONDS
                yield f"{share:.0%} of the seconds of {node} from {since:.0f} to {until:.0f} s were of use"


def _told_too_late(world: OverloadedWorld, answers: Answers) -> Iterator[str]:
    """What cannot be done is told while there is time to go elsewhere."""
    for node, plan in world.nodes.items():
        ends = sorted(one.ended for one in answers.calls(node) if one.ended is not None and one.in_time)
        known_at = ends[_KNOWN_CALLS] if len(ends) > _KNOWN_CALLS else SECONDS
        late = [
            one
            for one in answers.attempts.values()
            if one.demand.model in plan.models and one.demand.lane is Lane.INTERACTIVE
            and one.code == "deadline_passed" and one.began is None and one.sent > known_at
        ]  # fmt: skip
        if late:
            yield f"{len(late)} attempts for {node} waited until their deadline, first the one of {late[0].sent:.0f} s"


def _waits_throughout(answers: Answers, demand: Demand, since: float, until: float) -> bool:
    """Whether a tenant has something waiting at any time of a span."""
    at = since
    for began, ended in sorted(_wait(one) for one in answers.attempts.values() if one.demand is demand):
        if began > at + 0.01:
            return False
        at = max(at, ended)
        if at >= until:
            return True
    return False


def _wait(one: Attempted) -> tuple[float, float]:
    ends = [at for at in (one.began, one.ended) if at is not None]
    return one.sent, min(ends, default=SECONDS)


def _call(one: Attempted) -> tuple[float, float]:
    return one.began or 0.0, SECONDS if one.ended is None else one.ended


def _seconds(answers: Answers, node: str, demand: Demand, since: float, until: float) -> float:
    return sum(_common(_call(one), since, until) for one in answers.calls(node) if one.demand is demand)


def _common(span: tuple[float, float], since: float, until: float) -> float:
    return max(0.0, min(span[1], until) - max(span[0], since))


def _longest(demand: Demand) -> float:
    return demand.seconds * (1 + demand.spread)


def _number_at(spans: Spans, at: float) -> int:
    return bisect_right(sorted(began for began, _ in spans), at) - bisect_right(sorted(end for _, end in spans), at)
