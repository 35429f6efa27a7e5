"""Promises about sites: an attempt runs at its own and nowhere else. Of sites that go away: their attempts do not lie
there while another site could run them, and are not run once they have been taken back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from headrace_contracts.events import AttemptState, Place
from headrace_streams.records import Record

from headrace_testing.router_twin import PREFIX
from headrace_testing.simulation.models import nodes_at
from headrace_testing.simulation.plan import Fault

if TYPE_CHECKING:
    from headrace_testing.simulation.judge import Judge
    from headrace_testing.simulation.models import Call
    from headrace_testing.simulation.processes import SimulatedProcess

_ENOUGH_SECONDS: Final = 10.0
"""Long enough for two looks of a router, and for what it has to do before."""
_SETTLE_SECONDS: Final = 20.0
_TIMED_OUT: Final = "attempt_timeout"


@dataclass(frozen=True, slots=True)
class Sight:
    """What the reports say that a router has read, at one time.

    Attributes:
        at: Seconds since the start.
        router: Name of its process.
        silent: Sites of which no report counts any more.
        offered: Sites and models of usable nodes.
    """

    at: float
    router: str
    silent: frozenset[str]
    offered: frozenset[tuple[str, str]]


def look(judge: Judge) -> None:
    """Note what each router knows of sites; to be called once a second."""
    for process in judge.world.processes:
        body = process.body
        reports = None if body is None or process.fate.frozen else getattr(body, "reports", None)
        if reports is None:
            continue
        now = process.clock()
        local = [one for one in reports() if one.place is Place.LOCAL and now < one.reported_at + one.valid_for_ms]
        silent = {*judge.world.plan.sites} - {one.site for one in local}
        offered = {(one.site, model.name) for one in local if one.healthy for model in one.models}
        judge.sights.append(Sight(judge.world.loop.time(), process.name, frozenset(silent), frozenset(offered)))


def check_end(judge: Judge, process: SimulatedProcess, record: Record, calls: Sequence[Call]) -> None:
    """An attempt runs at its own site; a worker that comes back does not run what was taken back before."""
    place = (record.topic.removeprefix(PREFIX), record.partition, record.offset)
    _, request = judge.topics.work[place]
    if judge.world.plan.sites and request.provider == "ollama":
        for call in calls:
            if call.node not in nodes_at(request.site):
                judge.violated(f"{process.name} runs {request.attempt_id} of site {request.site!r} at {call.node}")
    told = judge.topics.told_at.get((request.attempt_id, request.tenant))
    if calls and told is not None and told < process.started_at:
        judge.violated(f"{process.name} runs {request.attempt_id}, which was taken back before it came back")


def verdict(judge: Judge) -> Sequence[str]:
    """All violations concerning sites."""
    plan = judge.world.plan
    # In trouble, a router may be kept from looking.
    if not plan.rate(Fault.SITE_GONE) or judge.world.trouble.trouble is not None:
        return ()
    return list(_left_lying(judge))


def _left_lying(judge: Judge) -> Iterator[str]:
    """No first attempt times out at a site that its router knew to be gone, while it knew another with the model."""
    for task_id, decisions in judge.topics.decisions.items():
        for seen, entry in decisions:
            attempts = () if entry.state is None else entry.state.attempts
            if len(attempts) != 1 or attempts[0].failure is None:
                continue
            if attempts[0].place is Place.LOCAL and attempts[0].failure.code == _TIMED_OUT:
                log = judge.world.cluster.history.partition(seen.record.topic, seen.record.partition)
                since = seen.at - _ENOUGH_SECONDS
                # A router that takes over lets its predecessor settle first; the first owner has none.
                routing = log[entry.epoch].at + (_SETTLE_SECONDS if entry.epoch else 0.0)
                if routing < since and _was_known(judge, seen.client, attempts[0], since, seen.at):
                    yield f"task {task_id} timed out at site {attempts[0].site!r}, which was gone"
            break


def _was_known(judge: Judge, router: str, attempt: AttemptState, since: float, until: float) -> bool:
    sights = [one for one in judge.sights if one.router == router and since <= one.at <= until]
    # It was frozen, or dead, if there are fewer.
    if len(sights) < _ENOUGH_SECONDS - 1 or not all(attempt.site in one.silent for one in sights):
        return False
    return any(
        all((site, attempt.model) in one.offered for one in sights)
        for site in judge.world.plan.sites
        if site != attempt.site
    )
