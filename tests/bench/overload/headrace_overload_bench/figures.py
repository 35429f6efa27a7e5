"""From what was asked in each step to what is reported. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from headrace_bench.ratios import percentile

from headrace_overload_bench.arrivals import GREEDY, OverloadStep
from headrace_overload_bench.open_load import REFUSED, AskedRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantsFigures:
    """What some of the tenants got in a step, all together.

    Attributes:
        asked: Requests a second.
        goodput: Answers in time a second.
        share: Of what they asked for, what was answered in time; 1 if they asked for nothing.
        p50, p99: Milliseconds from when a request should have begun to its response, of all that were not refused,
            in time or not; None without any.
    """

    asked: float
    goodput: float
    share: float
    p50: float | None
    p99: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFigures:
    """What came of one step.

    Attributes:
        statuses: Requests that were not answered in time, by status: 0 is none at all, 200 an answer that came late.
        told: Refusals that said when to come back.
        tried, kept: How many of them were sent again at that time, and how many of these were taken on.
        least, most: Shares of the modest tenant that got the smallest and of the one that got the largest part of what
            it asked for.
        memory: The most bytes of each part.
        restarts: Processes of the platform that were started again.
        cores: Processors that the platform kept busy.
        best: The modest tenants' p99 in milliseconds if they went first at every free slot (`ideal`); None without any.
    """

    step: OverloadStep
    seconds: float
    everyone: TenantsFigures
    greedy: TenantsFigures
    modest: TenantsFigures
    statuses: Mapping[int, int]
    told: int
    tried: int
    kept: int
    least: float
    most: float
    memory: Mapping[str, int]
    restarts: int
    cores: float
    best: float | None


def window(asked: Iterable[AskedRequest], opens: float, closes: float) -> list[AskedRequest]:
    """Those that ended between these seconds after the load's start.

    By their end, since a system with a backlog would else be credited with what it answers when the load is over.
    """
    return [one for one in asked if opens <= one.ended < closes]


def in_time(one: AskedRequest, deadline_seconds: float) -> bool:
    """Whether it was answered before its deadline."""
    return one.status == 200 and one.ended - one.due <= deadline_seconds


def group(asked: Sequence[AskedRequest], seconds: float, deadline_seconds: float) -> TenantsFigures:
    """The figures of some requests that ended within a window of so many seconds."""
    answered = sum(in_time(one, deadline_seconds) for one in asked)
    accepted = sorted(1000 * (one.ended - one.due) for one in asked if one.status not in REFUSED)
    return TenantsFigures(
        asked=len(asked) / seconds,
        goodput=answered / seconds,
        share=answered / len(asked) if asked else 1.0,
        p50=percentile(accepted, 0.5) if accepted else None,
        p99=percentile(accepted, 0.99) if accepted else None,
    )


def step_figures(
    step: OverloadStep,
    asked: Sequence[AskedRequest],
    seconds: float,
    deadline_seconds: float,
    memory: Mapping[str, int],
    restarts: int,
    cores: float,
    best: float | None,
) -> StepFigures:
    """A step's figures.

    Args:
        asked: What ended within its window.
        seconds: How long the window was open.
    """
    by_tenant = [[one for one in asked if one.tenant == number] for number in range(len(step.rates))]
    others = [one for one in asked if one.tenant != GREEDY]
    shares = [group(own, seconds, deadline_seconds).share for own in by_tenant[1:]]
    tried = [one for one in asked if one.again is not None]
    return StepFigures(
        step=step,
        seconds=seconds,
        everyone=group(asked, seconds, deadline_seconds),
        greedy=group(by_tenant[GREEDY], seconds, deadline_seconds),
        modest=group(others, seconds, deadline_seconds),
        statuses=dict(sorted(Counter(one.status for one in asked if not in_time(one, deadline_seconds)).items())),
        told=sum(one.retry_after is not None for one in asked),
        tried=len(tried),
        kept=sum(one.again not in REFUSED for one in tried),
        least=min(shares),
        most=max(shares),
        memory=memory,
        restarts=restarts,
        cores=cores,
        best=best,
    )


@dataclass(frozen=True, slots=True)
class Goal:
    """What is to be reached, and what was; None where it was not measured.

    Attributes:
        at_most: Whether less is better.
    """

    what: str
    wanted: float
    reached: float | None
    at_most: bool = False

    @property
    def met(self) -> bool:
        """Whether it was reached."""
        if self.reached is None:
            return False
        return self.reached <= self.wanted if self.at_most else self.reached >= self.wanted

    def line(self) -> str:
        """For people."""
        reached = "nothing" if self.reached is None else f"{self.reached:.2f}"
        sign = "≤" if self.at_most else "≥"
        return f"{self.what}: {reached}, goal {sign} {self.wanted:g}: {'met' if self.met else 'not met'}"


LEAST_GOODPUT: Final = 0.9
"""Goodput under any overload, as a share of that when just as much is asked for as the models can do."""
MOST_LATENCY: Final = 1.3
"""The modest tenants' p99, as a multiple of what it is without the greedy one."""


def goals(steps: Sequence[StepFigures]) -> list[Goal]:
    """For each step of overload: goodput against the step at 1 ×, latency against the step without the greedy one."""
    full = next((one.everyone.goodput for one in steps if one.step.times == 1 and one.step.rates[GREEDY]), None)
    alone = next((one.modest.p99 for one in steps if not one.step.rates[GREEDY]), None)
    found = [
        Goal(f"goodput at {one.step.name} as a share of that at 1 ×", LEAST_GOODPUT, one.everyone.goodput / full)
        for one in steps
        if full and one.step.times > 1
    ]
    found += [
        Goal(
            f"the others' p99 at {one.step.name} as a multiple of that without the greedy one",
            MOST_LATENCY,
            None if one.modest.p99 is None else one.modest.p99 / alone,
            at_most=True,
        )
        for one in steps
        if alone and one.step.rates[GREEDY]
    ]
    return found
