"""Promises about trouble that lasts: it stays where it is, and what it held up goes on when it ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from headrace_contracts.events import TaskPhase, TaskSubmitted

from headrace_testing.simulation.cluster import Seen
from headrace_testing.simulation.oracle_bytes import waits_for_room
from headrace_testing.simulation.troubles import Trouble

if TYPE_CHECKING:
    from headrace_testing.simulation.judge import Judge

DECIDED_SECONDS: Final = 5.0
"""A task in a good partition is decided within this time of its submission."""
PUBLISHED_SECONDS: Final = 5.0
"""Its end is published within this time of the decision."""
HEALED_TASK_SECONDS: Final = 150.0
"""Every task has ended within this time of the trouble's end, longer than the longest deadline."""


def verdict(judge: Judge) -> Sequence[str]:
    """All violations concerning trouble that lasts."""
    trouble = judge.world.trouble.trouble
    if trouble is None:
        return ()
    if waits_for_room(judge.world.plan.seed):
        # Tasks wait for others to end, whatever else happens.
        return list(trouble.verdict(judge.world))
    return [*_good_ones_go_on(judge, trouble), *_heals(judge), *trouble.verdict(judge.world)]


def _good_ones_go_on(judge: Judge, trouble: Trouble) -> Iterator[str]:
    topics, world = judge.topics, judge.world
    for task_id, seen, task in _during(judge):
        home = seen.record.partition
        decisions = topics.decisions.get(task_id, ())
        decided = decisions[0][0].at if decisions else float("inf")
        if decided > seen.at + DECIDED_SECONDS and not trouble.delays_decision(world, home, task):
            yield f"task {task_id} was decided {decided - seen.at:.1f} s after its submission, though {trouble.about}"
        end = next((at.at for at, entry in decisions
                    if entry.state is not None and entry.state.phase is TaskPhase.FINISHED), None)  # fmt: skip
        if end is None or trouble.delays_end(world, home, task):
            continue
        told = topics.completed.get(task_id)
        published = told[0][0].at if told else float("inf")
        if published > end + PUBLISHED_SECONDS:
            yield f"the end of task {task_id} was published {published - end:.1f} s later, though {trouble.about}"


def _heals(judge: Judge) -> Iterator[str]:
    latest = judge.world.trouble.ends_at + HEALED_TASK_SECONDS
    for task_id, records in judge.topics.completed.items():
        submitted = judge.topics.submitted.get(task_id)
        if submitted and submitted[0][0].at < judge.world.trouble.ends_at and records[0][0].at > latest:
            yield f"task {task_id} ended {records[0][0].at - judge.world.trouble.ends_at:.0f} s after the trouble"


def _during(judge: Judge) -> Iterator[tuple[str, Seen, TaskSubmitted]]:
    """Tasks that were submitted during the trouble, when nothing else went wrong any more."""
    trouble = judge.world.trouble
    for task_id, records in judge.topics.submitted.items():
        seen, task = records[0]
        if trouble.quiet_at <= seen.at < trouble.ends_at:
            yield task_id, seen, task
