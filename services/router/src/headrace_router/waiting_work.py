"""Looks at the tasks that wait in the partitions of this process, and tells autoscalers what they are in work.

A look decodes a task and decides about it, so each is looked at once and again after a minute, a limited number in each
round. Until all have been looked at, those that were stand for the others.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final

from headrace_contracts.errors import UnreadableValue
from headrace_contracts.events import Place
from headrace_contracts.sites import NO_SITE
from headrace_streams.errors import StreamsError

from headrace_router.adapters.routing_view import RoutingView
from headrace_router.decide.tasks import PartitionTasks
from headrace_router.decide.waiting_work import (
    NOTHING_WAITS,
    AnswerLengths,
    KnownOffers,
    WaitingLoad,
    WaitingNeed,
    WorkTarget,
    need_of,
    waiting_loads,
)
from headrace_router.metrics import RouterMetrics

WITHOUT_SITE: Final = "_"
"""Stands for workers without a site where a name is needed; no site can have this name."""
_AGAIN_SECONDS: Final = 60.0
_LOOKS_AT_ONCE: Final = 25
"""Looks before the event loop gets its turn: about 5 ms."""
_LOOKS_IN_A_ROUND: Final = 500


class WaitingWork:
    """What waits, as of the last round.

    Args:
        monotonic: Seconds on a monotonic clock.
    """

    def __init__(
        self, view: RoutingView, metrics: RouterMetrics, lengths: AnswerLengths, monotonic: Callable[[], float]
    ) -> None:
        self._view = view
        self._metrics = metrics
        self._lengths = lengths
        self._monotonic = monotonic
        # By task, the one looked at first first, with the time of the look.
        self._needs: dict[str, tuple[float, WaitingNeed]] = {}
        self._loads: Mapping[WorkTarget, WaitingLoad] = {}

    async def count(self, partitions: Iterable[PartitionTasks]) -> None:
        """Look at what waits now in these partitions, and publish it."""
        where = {task_id: tasks for tasks in partitions for task_id in (*tasks.waiting(), *tasks.awaiting_turns())}
        self._needs = {task_id: known for task_id, known in self._needs.items() if task_id in where}
        before = self._monotonic() - _AGAIN_SECONDS
        due = [task_id for task_id in where if task_id not in self._needs]
        due += [task_id for task_id, (looked_at, _) in self._needs.items() if looked_at <= before]
        for number, task_id in enumerate(due[:_LOOKS_IN_A_ROUND], start=1):
            self._look(task_id, where[task_id])
            if number % _LOOKS_AT_ONCE == 0:
                await asyncio.sleep(0)
        self._tell(len(where))

    def forget(self) -> None:
        """Nothing waits here any more: others have the partitions."""
        self._needs = {}
        self._tell(0)

    def document(self) -> Mapping[str, Any]:
        """The same as plain data, for autoscalers that read no metrics. All sites are there, and the cloud."""
        sites: defaultdict[str, WaitingLoad] = defaultdict(lambda: NOTHING_WAITS)
        cloud = NOTHING_WAITS
        for target, load in self._loads.items():
            if target.place is Place.CLOUD:
                cloud += load
            else:
                sites[target.site] += load
        return {
            "cloud": _plain(cloud),
            "sites": {site or WITHOUT_SITE: _plain(sites[site]) for site in sorted({NO_SITE, *self._view.sites})},
            "targets": [
                {
                    "place": target.place.value,
                    "provider": target.provider,
                    "site": target.site,
                    "lane": target.lane.value,
                    "model": target.model,
                    **_plain(load),
                }
                for target, load in sorted(self._loads.items())
            ],
        }

    def _look(self, task_id: str, tasks: PartitionTasks) -> None:
        self._needs.pop(task_id, None)
        try:
            state = tasks.get(task_id)
        except (UnreadableValue, StreamsError):
            # Whoever has to decide about it says so; here it is one that was not looked at.
            return
        if state is not None and (task := state.task) is not None:
            need = need_of(state, self._view.context(tasks, task.tenant, task.user, tasks.sessions))
            self._needs[task_id] = self._monotonic(), need

    def _tell(self, waiting: int) -> None:
        needs = [need for _, need in self._needs.values()]
        if not needs:
            self._loads = {}
        else:
            reports, heard = self._view.last_reports(), self._heard()
            offers = KnownOffers(reports, self._view.policy, self._view.sites, heard)
            self._loads = waiting_loads(needs, offers, self._lengths, max(1.0, waiting / len(needs)))
        self._metrics.waiting_work(self._loads)

    def _heard(self) -> Collection[str]:
        silent = self._view.silent_sites()
        return [site for site in self._view.sites if site not in silent]


def _plain(load: WaitingLoad) -> dict[str, float]:
    return {"waiting_tasks": round(load.tasks, 3), "waiting_work_seconds": round(load.seconds, 3)}
