"""Which site runs an attempt on our own nodes.

A site is chosen among those that offer the model, when the attempt is dispatched:

1. Sites at which this task's attempts at the model have ended before come last, the longest ago first: a site that
   could not run it is followed by another one.
2. A task of a session goes where the session has other attempts, so that their order is kept.
3. Sites where the tenant has room for one more attempt come first.
4. A task of a session goes where a hash of the session leads, since that site's nodes have its earlier turns in the
   model's cache, unless the site has much more to do than the others (consistent hashing with bounded load).
5. The site with the least to do for what it can do: attempts out of this partition, and what its nodes report, by slots
   and measured speed. A site that has yet to load the model counts as if all its slots were taken.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from headrace_contracts.events import AttemptState, Lane, NodeStatus, Place, TaskPhase, TaskState
from headrace_contracts.topics import work_topic

from headrace_router.decide.candidates import Candidate, Choice
from headrace_router.decide.fleet import tagged
from headrace_router.decide.model import DecisionContext
from headrace_router.decide.tenant_quota import size_of
from headrace_router.decide.terminal import task_of

_BOUND: Final = 1.25
"""How much more than all sites on average a session's site may have to do before another one takes over."""


@dataclass(frozen=True, slots=True)
class SiteLoad:
    """What a site can do for a model, and has to do.

    Attributes:
        capacity: Slots of the nodes that offer it, each times its speed.
        slots: The same slots, whatever their speed.
        taken: Calls that they run, as far as they report, and this partition's attempts that are out, as far as they
            are theirs.
        warm: Whether one of them has the model in memory.
    """

    capacity: float
    slots: int
    taken: float
    warm: bool

    @property
    def load(self) -> float:
        """What there is to do with one more attempt, for what the site can do."""
        return (self.taken + 1 + (0 if self.warm else self.slots)) / self.capacity

    @property
    def has_a_slot(self) -> bool:
        return self.taken < self.slots


def at_site(choice: Choice, state: TaskState, context: DecisionContext) -> Choice:
    """The choice with the site of the chosen candidate."""
    chosen = choice.chosen
    if chosen is None or chosen.place is not Place.LOCAL:
        return choice
    site = choice.nodes[0].site
    if any(node.site != site for node in choice.nodes):
        offers: defaultdict[str, list[NodeStatus]] = defaultdict(list)
        for node in choice.nodes:
            offers[node.site].append(node)
        site = choose_site(offers, chosen, state, context)
    if not site:
        return choice
    return replace(choice, chosen=replace(chosen, site=site), reason=f"{choice.reason}; site {site}")


def choose_site(
    offers: Mapping[str, Sequence[NodeStatus]], chosen: Candidate, state: TaskState, context: DecisionContext
) -> str:
    """The site among those with usable nodes that offer the model; there is at least one."""
    if len(offers) == 1:
        return next(iter(offers))
    task, peers = task_of(state), context.peers
    ended = ended_at(state.attempts, chosen.provider, chosen.model)
    followed = None if task.session is None else peers.site_of_session(task.tenant, task.session, task.task_id)
    if followed is not None and followed in offers and followed not in ended:
        return followed
    size = size_of(task)

    def has_room(site: str) -> bool:
        topic = work_topic(Place.LOCAL, state.lane, site).name
        return has_place(state, topic) or peers.out(task.tenant, topic).lets_go(task.task_id, size, context.window)

    def waits_there(site: str) -> bool:
        return state.phase is TaskPhase.WAITING and state.work_topic == work_topic(Place.LOCAL, state.lane, site).name

    ranked = {site: (ended.get(site, 0), not has_room(site), not waits_there(site)) for site in offers}
    best = min(ranked.values())
    loads = site_loads({site: offers[site] for site in sorted(offers)}, chosen.model, context)
    left = {site: load for site, load in loads.items() if ranked[site] == best}
    if task.session is not None and (kept := _by_session(f"{task.tenant}/{task.session}", left)) is not None:
        return kept
    return min(left, key=lambda site: (left[site].load, site))


def has_place(state: TaskState, topic: str) -> bool:
    """Whether a task has a place in its tenant's window of a topic."""
    has_one = (TaskPhase.RUNNING, TaskPhase.BACKING_OFF, TaskPhase.SEARCHING, TaskPhase.CONSULTING)
    return state.phase in has_one and state.work_topic == topic


def ended_at(attempts: Iterable[AttemptState], provider: str, model: str) -> Mapping[str, int]:
    """By site the number of the task's newest attempt at this model that has ended there."""
    return {
        attempt.site: attempt.number
        for attempt in attempts
        if attempt.outcome is not None and (attempt.provider, attempt.model) == (provider, model)
    }


def site_loads(
    offers: Mapping[str, Sequence[NodeStatus]], model: str, context: DecisionContext
) -> Mapping[str, SiteLoad]:
    """What each site can do for a model, and has to do. A speed that no node has measured yet is taken for the mean."""
    speeds = [node.tokens_per_second for nodes in offers.values() for node in nodes if node.tokens_per_second]
    usual = sum(speeds) / len(speeds) if speeds else 1.0
    name = tagged(model, Place.LOCAL)

    def power(nodes: Iterable[NodeStatus]) -> float:
        return sum(max(1, node.slots) * (node.tokens_per_second or usual) for node in nodes)

    found = {}
    for site, nodes in offers.items():
        capacity, slots = power(nodes), sum(max(1, node.slots) for node in nodes)
        out = sum(context.peers.attempts_in(work_topic(Place.LOCAL, lane, site).name) for lane in Lane)
        share = capacity / max(capacity, power(context.fleet.usable_at(site, context.now)))
        warm = any(one.loaded and tagged(one.name, Place.LOCAL) == name for node in nodes for one in node.models)
        found[site] = SiteLoad(capacity, slots, out * share + sum(max(0, node.busy) for node in nodes), warm)
    return found


def _by_session(session: str, loads: Mapping[str, SiteLoad]) -> str | None:
    """The site that a session's hash leads to, of those that do not have much more to do than all on average.

    Rendezvous hashing by slots: when a site comes or goes, only the sessions that it gains or had move.
    """
    to_do = sum(load.taken + 1 for load in loads.values())
    average = to_do / sum(load.capacity for load in loads.values())
    fit = [
        site for site, load in loads.items() if load.has_a_slot or (load.taken + 1) / load.capacity <= _BOUND * average
    ]
    return max(fit, key=lambda site: (_score(session, site, loads[site].slots), site), default=None)


def _score(session: str, site: str, slots: int) -> float:
    digest = hashlib.blake2b(f"{session}/{site}".encode("utf-8", "replace"), digest_size=8).digest()
    drawn = (int.from_bytes(digest, "big") + 1) / (2**64 + 1)
    return -slots / math.log(drawn)
