"""Promises about sites that go away: their attempts do not lie there while another site could run them, and are not run
once they have been taken back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from headrace_contracts.events import AttemptState, Lane, NodeStatus, Place
from headrace_streams.records import Record

from headrace_testing.router_twin import PREFIX
from headrace_testing.simulation.plan import Fault

if TYPE_CHECKING:
    from headrace_testing.simulation.judge import Judge
    from headrace_testing.simulation.models import Call
    from headrace_testing.simulation.processes import SimulatedProcess

_ENOUGH_SECONDS: Final = 13.0
"""Long enough for reports to expire, for two looks of a router, and for requests that were lost."""
_OFTEN_SECONDS: Final = 4.0
_TIMED_OUT: Final = "attempt_timeout"


def check_end(judge: Judge, process: SimulatedProcess, record: Record, calls: Sequence[Call]) -> None:
    """A worker that comes back does not run what was taken back before."""
    place = (record.topic.removeprefix(PREFIX), record.partition, record.offset)
    _, request = judge.topics.work[place]
    told = judge.topics.told_at.get((request.attempt_id, request.tenant))
    if calls and told is not None and told < process.started_at:
        judge.violated(f"{process.name} runs {request.attempt_id}, which was taken back before it came back")


def verdict(judge: Judge) -> Sequence[str]:
    """All violations concerning sites."""
    plan = judge.world.plan
    # With wrong clocks, nobody knows when a report has expired; in trouble, a router may be kept from looking.
    if not plan.sites or plan.rate(Fault.CLOCK) or judge.world.trouble.trouble is not None:
        return ()
    return list(_left_lying(judge))


def _left_lying(judge: Judge) -> Iterator[str]:
    """No first attempt of a batch times out at a site that was gone for long, while another site reported the model."""
    for task_id, decisions in judge.topics.decisions.items():
        for seen, entry in decisions:
            state = entry.state
            if state is None or state.lane is not Lane.BATCH or len(state.attempts) != 1:
                continue
            (attempt,) = state.attempts
            if attempt.place is not Place.LOCAL or attempt.failure is None or attempt.failure.code != _TIMED_OUT:
                continue
            since = seen.at - _ENOUGH_SECONDS
            if (
                _was_gone(judge, attempt.site, since, seen.at)
                and _was_well(judge, seen.client, since)
                and any(_offered(judge, site, attempt, since, seen.at) for site in set(judge.world.plan.sites))
            ):
                yield f"task {task_id} timed out at site {attempt.site!r}, which was gone"
            break


def _was_gone(judge: Judge, site: str, since: float, until: float) -> bool:
    return any(gone == site and begin <= since and until <= end for gone, begin, end in judge.world.absences)


def _was_well(judge: Judge, router: str, since: float) -> bool:
    """Whether a router has run without a break since then, and some time before, to take over from another one."""
    process = next(one for one in judge.world.processes if one.name == router)
    began = since if process.lives == 1 else since - _ENOUGH_SECONDS
    return process.started_at < began and not any(at > since for at in process.thawed_at)


def _offered(judge: Judge, site: str, attempt: AttemptState, since: float, until: float) -> bool:
    """Whether a site reported the attempt's model, healthy, all the time."""
    if site == attempt.site:
        return False
    times = [since, *(at for at, status in judge.topics.nodes if _offers(status, site, attempt)), until]
    times = [at for at in times if since <= at <= until]
    return all(later - earlier <= _OFTEN_SECONDS for earlier, later in pairwise(times))


def _offers(status: NodeStatus, site: str, attempt: AttemptState) -> bool:
    return (
        status.place is Place.LOCAL
        and status.site == site
        and status.healthy
        and any(model.name == attempt.model for model in status.models)
    )
