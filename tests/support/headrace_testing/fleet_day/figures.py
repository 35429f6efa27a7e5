"""What a simulated day came to: availability, use of the hardware, and what was lost. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from headrace_contracts.events import Lane

from headrace_testing.fleet_day.machines import Condition, MachineCall, MachineSpec
from headrace_testing.fleet_day.plan import DAY, HOUR, seconds_of
from headrace_testing.fleet_day.world import Asked, DayResult


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanFigures:
    """A span of time; shares from 0 to 1. Machines count by what they can write: one twice as fast counts twice.

    Attributes:
        asked: Tasks that came.
        in_time: Share of these that were answered before their deadlines.
        offered: What they asked for, as a share of what the machines that were well could do.
        used: Share of what machines that were well could do that they did for calls.
        useful: The same for calls that gave an answer.
        up: Share of the machines that were well.
    """

    since: float
    asked: int
    in_time: float
    offered: float
    used: float
    useful: float
    up: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DayFigures:
    """A whole day. Seconds, and shares from 0 to 1.

    Attributes:
        lost: Tasks without an end, or with more than one.
        failed: Tasks by how they ended, but for those that were answered.
        restarting: Tasks that came during rolling restarts, and how many of them were not answered in time.
        busiest: The hour in which most of the hardware was in use.
        wait_p50, wait_p99: Until the answer, of interactive tasks.
    """

    seed: int
    machines: int
    tasks: int
    in_time: float
    lost: int
    failed: Mapping[str, int]
    restarts: int
    restarting: int
    restarting_failed: int
    attempts_each: float
    calls: int
    calls_cut: int
    busiest: SpanFigures
    hours: Sequence[SpanFigures]
    wait_p50: float
    wait_p99: float

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def figures(result: DayResult) -> DayFigures:
    """The figures of a day, by hours; of less than a day, by twelfths of an hour."""
    plan, asked, calls = result.plan, result.asked, result.ledger.calls
    in_restart = [one for one in asked if any(since <= one.at < until for since, until in plan.restart_spans)]
    waits = sorted(one.ends[0][0] - one.at for one in asked if one.in_time and one.kind.lane is Lane.INTERACTIVE)
    spans = _spans(result, HOUR if plan.seconds >= DAY else HOUR / 12)
    return DayFigures(
        seed=plan.seed,
        machines=len(plan.machines),
        tasks=len(asked),
        in_time=_share(sum(one.in_time for one in asked), len(asked)),
        lost=sum(len(one.ends) != 1 for one in asked),
        failed=dict(Counter(": ".join(filter(None, one.ends[0][1:])) for one in asked if one.ends and not one.in_time)),
        restarts=len(plan.restart_spans),
        restarting=len(in_restart),
        restarting_failed=sum(not one.in_time for one in in_restart),
        attempts_each=_share(sum(one.attempts for one in asked), len(asked)),
        calls=len(calls),
        calls_cut=sum(one.running and not one.done for one in calls),
        busiest=max(spans, key=lambda one: one.used),
        hours=spans,
        wait_p50=_quantile(waits, 0.5),
        wait_p99=_quantile(waits, 0.99),
    )


def _spans(result: DayResult, span: float) -> Sequence[SpanFigures]:
    plan = result.plan
    number = round(plan.seconds / span)
    specs = {spec.name: spec for spec in plan.machines}
    can, used, useful, up = ([0.0] * number for _ in range(4))
    for spec in plan.machines:
        for since, until, condition in result.ledger.spans(spec.name, plan.seconds):
            if condition is Condition.UP:
                _add(can, since, until, span, _power(spec))
                _add(up, since, until, span, 1.0)
    for call in result.ledger.calls:
        for since, until in _at_work(result, call):
            power = specs[call.machine].speed
            _add(used, since, until, span, power)
            if call.done:
                _add(useful, since, until, span, power)
    came: defaultdict[int, list[Asked]] = defaultdict(list)
    for one in result.asked:
        came[int(one.at // span)].append(one)
    return [
        SpanFigures(
            since=index * span,
            asked=len(came[index]),
            in_time=_share(sum(one.in_time for one in came[index]), len(came[index])),
            offered=_share(sum(seconds_of(one.kind) for one in came[index]), can[index]),
            used=_share(used[index], can[index]),
            useful=_share(useful[index], can[index]),
            up=up[index] / span / len(plan.machines),
        )
        for index in range(number)
    ]


def _at_work(result: DayResult, call: MachineCall) -> Sequence[tuple[float, float]]:
    """When a call had its machine work: not while that was away or stuck, though its slot was taken."""
    until = result.plan.seconds if call.ended is None else call.ended
    spans = [
        (max(since, call.began), min(to, until))
        for since, to, condition in result.ledger.spans(call.machine, until)
        if condition is Condition.UP and to > call.began
    ]
    return [(since, to) for since, to in spans if to > since]


def _add(into: list[float], since: float, until: float, span: float, rate: float) -> None:
    index = int(since // span)
    while index < len(into) and index * span < until:
        within = min(until, (index + 1) * span) - max(since, index * span)
        into[index] += rate * max(0.0, within)
        index += 1


def _power(spec: MachineSpec) -> float:
    return spec.speed * spec.slots


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _quantile(values: Sequence[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0.0
