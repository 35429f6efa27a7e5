"""What the waiting tasks are in work, for each place, provider, site, lane and model that could do it.

A task that waits in the router is in no topic, so no worker's lag shows it. It counts once for each site, and once for
the cloud, that could run it: with the best of its candidates there. What could run it follows from the same decision
that routes it, with nodes that are gone taken for nodes that may come back, so a sensitive task never counts for the
cloud. Nobody can tell in advance who will take it, so the sums over sites and places are more than what waits.

Its seconds are an estimate: tokens of its prompt (a token has four bytes) and of its answer, by the speed that the
nodes reported last. What is not known has the same values as in a worker's estimates: 500 tokens/s read, 25 tokens/s
written, an answer of 128 tokens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from headrace_contracts.events import Lane, ModelOperation, NodeStatus, Place, TaskCompleted, TaskState
from headrace_contracts.sites import NO_SITE
from headrace_contracts.topics import WORK_LOCAL, topic_named
from headrace_models.worker.estimates import (
    PRIOR_OUTPUT_TOKENS,
    PRIOR_PROMPT_TOKENS_PER_SECOND,
    PRIOR_TOKENS_PER_SECOND,
    sane,
)

from headrace_router.decide.candidates import NO_CAPACITY, NO_LOCAL_CAPACITY
from headrace_router.decide.costs import most_in_options, most_tokens
from headrace_router.decide.fleet import tagged
from headrace_router.decide.model import DecisionContext
from headrace_router.decide.policy import Policy
from headrace_router.decide.routes import choose_for
from headrace_router.decide.terminal import task_of

OTHER_MODELS: Final = "other"
"""Stands for models beyond `MOST_MODELS`, and for those that only a caller has named."""
MOST_MODELS: Final = 50
_MOST_LENGTHS: Final = 256
_BYTES_PER_TOKEN: Final = 4
_MOST_TOKENS: Final = 10_000_000.0
_MOST_TOKENS_PER_SECOND: Final = 1_000_000.0
_WEIGHT_OF_NEWEST: Final = 0.1
_LACKS_NODES: Final = frozenset({NO_LOCAL_CAPACITY, NO_CAPACITY})


class Wanted(NamedTuple):
    """A model that could run a task."""

    place: Place
    provider: str
    model: str


@dataclass(frozen=True, slots=True)
class WaitingNeed:
    """What a waiting task needs.

    Attributes:
        candidates: The models that could run it, the best first.
        site: The only site that will; None if that is open.
        prompt_tokens: About as many.
        max_output_tokens: Most tokens of its answer; None without a limit.
    """

    lane: Lane
    candidates: tuple[Wanted, ...]
    prompt_tokens: int
    max_output_tokens: int | None
    site: str | None = None


class WorkTarget(NamedTuple):
    """Who could do some work."""

    place: Place
    provider: str
    site: str
    lane: Lane
    model: str


@dataclass(frozen=True, slots=True)
class WaitingLoad:
    """Tasks, and the seconds of all of them, one after the other."""

    tasks: float
    seconds: float

    def __add__(self, other: WaitingLoad) -> WaitingLoad:
        return WaitingLoad(self.tasks + other.tasks, self.seconds + other.seconds)


NOTHING_WAITS: Final = WaitingLoad(0.0, 0.0)


class AnswerLengths:
    """The usual answers of models, in tokens: moving averages over the tasks that have ended."""

    def __init__(self) -> None:
        self._usual: dict[tuple[str, str], float] = {}

    def observe(self, end: TaskCompleted) -> None:
        """A task has ended."""
        if end.provider is None or end.model is None or end.answer is None or end.attempts != 1:
            return
        name = end.provider, end.model
        tokens = sane(float(end.usage.output_tokens), _MOST_TOKENS)
        before = self._usual.pop(name, None)
        # The model that was used last is the last one, so the first has been out of use for longest.
        self._usual[name] = tokens if before is None else before + _WEIGHT_OF_NEWEST * (tokens - before)
        if len(self._usual) > _MOST_LENGTHS:
            del self._usual[next(iter(self._usual))]

    def usual(self, wanted: Wanted, most: int | None) -> float:
        """Tokens of an answer, of which there may be no more than `most`."""
        known = self._usual.get((wanted.provider, wanted.model), float(PRIOR_OUTPUT_TOKENS))
        return known if most is None else min(known, float(max(most, 0)))


class KnownOffers:
    """Which sites have offered which models, and how fast, by the last reports of all nodes, also of those that are
    gone.

    Args:
        sites: All sites that there are, the one without a name included.
        heard: Those of them whose workers report now.
    """

    def __init__(
        self, reports: Iterable[NodeStatus], policy: Policy, sites: Collection[str], heard: Collection[str]
    ) -> None:
        speeds: defaultdict[tuple[Wanted, str], list[float]] = defaultdict(list)
        for node in reports:
            for model in node.models:
                needed = policy.models[model.name].hardware if model.name in policy.models else {}
                if node.place is Place.LOCAL and not needed.items() <= node.hardware.items():
                    continue
                offer = Wanted(node.place, node.provider, tagged(model.name, node.place)), node.site
                speed = sane(node.tokens_per_second or 0.0, _MOST_TOKENS_PER_SECOND)
                speeds[offer].extend([speed] if speed > 0 else [])
        self._speeds = {offer: sum(found) / len(found) if found else None for offer, found in speeds.items()}
        self._sites: defaultdict[Wanted, list[str]] = defaultdict(list)
        for wanted, site in self._speeds:
            self._sites[wanted].append(site)
        silent = [site for site in sites if site not in heard]
        self._anywhere = tuple(silent or sites)
        self._named = {wanted.model for wanted, _ in self._speeds} | _named_by(policy)

    def sites_of(self, wanted: Wanted) -> Collection[str]:
        """The sites that have offered a model; none if nobody has."""
        return (NO_SITE,) if wanted.place is Place.CLOUD else self._sites.get(_full(wanted), ())

    @property
    def anywhere(self) -> Collection[str]:
        """The sites that may offer what nobody is known to offer: those of which nothing is heard, else all."""
        return self._anywhere

    def is_known(self, wanted: Wanted) -> bool:
        """Whether a report or the policy names the model, and not only a caller."""
        return tagged(wanted.model, wanted.place) in self._named

    def seconds(self, need: WaitingNeed, wanted: Wanted, site: str, lengths: AnswerLengths) -> float:
        """How long a task takes there."""
        speed = self._speeds.get((_full(wanted), site)) or PRIOR_TOKENS_PER_SECOND
        output = lengths.usual(wanted, need.max_output_tokens)
        return need.prompt_tokens / PRIOR_PROMPT_TOKENS_PER_SECOND + output / speed


def need_of(state: TaskState, context: DecisionContext) -> WaitingNeed:
    """What a waiting task needs, and what could run it if all nodes were there."""
    task, choice = task_of(state), choose_for(state, context)
    place_of = context.policy.place
    candidates = [
        Wanted(place_of(one.provider), one.provider, one.model) for one in choice.rejected if one.code in _LACKS_NODES
    ]
    if choice.chosen is not None:
        candidates.append(Wanted(choice.chosen.place, choice.chosen.provider, choice.chosen.model))
    site = None
    if state.work_topic is not None:
        # It waits for its turn there, whatever it could have instead.
        site, place = topic_named(state.work_topic).site, place_of_topic(state.work_topic)
        candidates = [one for one in reversed(candidates) if one.place is place][:1]
    read = most_tokens(task.messages, state.system_prompt) + most_in_options(task.options)
    most = 0 if task.operation is ModelOperation.EMBED else task.sampling.max_output_tokens
    return WaitingNeed(state.lane, tuple(candidates), read // _BYTES_PER_TOKEN, most, site)


def place_of_topic(topic: str) -> Place:
    """The kind of worker that reads a topic of attempts."""
    return Place.LOCAL if topic.startswith(WORK_LOCAL) else Place.CLOUD


def waiting_loads(
    needs: Iterable[WaitingNeed], offers: KnownOffers, lengths: AnswerLengths, times: float = 1.0
) -> Mapping[WorkTarget, WaitingLoad]:
    """The work that waits, by who could do it.

    Args:
        times: How many tasks each of these stands for: not all that wait may have been looked at.
    """
    found: dict[WorkTarget, WaitingLoad] = {}
    for need in needs:
        for (place, site), wanted in _best(need, offers).items():
            model = tagged(wanted.model, place) if offers.is_known(wanted) else OTHER_MODELS
            target = WorkTarget(place, wanted.provider, site, need.lane, model)
            load = WaitingLoad(times, times * offers.seconds(need, wanted, site, lengths))
            found[target] = found.get(target, NOTHING_WAITS) + load
    return _bounded(found)


def _best(need: WaitingNeed, offers: KnownOffers) -> Mapping[tuple[Place, str], Wanted]:
    """The best candidate at each site, and in the cloud; at a site one that it is known to have, if there is one."""
    found: dict[tuple[Place, str], Wanted] = {}
    if need.site is not None:
        return {(wanted.place, need.site): wanted for wanted in need.candidates[:1]}
    for wanted in need.candidates:
        for site in offers.sites_of(wanted):
            found.setdefault((wanted.place, site), wanted)
    if not any(place is Place.LOCAL for place, _ in found):
        for wanted in need.candidates:
            if wanted.place is Place.LOCAL:
                return {**{(Place.LOCAL, site): wanted for site in offers.anywhere}, **found}
    return found


def _bounded(found: Mapping[WorkTarget, WaitingLoad]) -> Mapping[WorkTarget, WaitingLoad]:
    """With those models by name that have most to do, and the others as one."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for target, load in found.items():
        seconds[target.model] += load.seconds
    if len(seconds) <= MOST_MODELS:
        return found
    named = set(sorted(seconds, key=lambda model: (-seconds[model], model))[:MOST_MODELS])
    bounded: dict[WorkTarget, WaitingLoad] = {}
    for target, load in found.items():
        short = target if target.model in named else target._replace(model=OTHER_MODELS)
        bounded[short] = bounded.get(short, NOTHING_WAITS) + load
    return bounded


def _full(wanted: Wanted) -> Wanted:
    return wanted._replace(model=tagged(wanted.model, wanted.place))


def _named_by(policy: Policy) -> set[str]:
    refs = [ref for role in policy.roles.values() for ref in (*role.models, *(role.ladder or ()))]
    named = {tagged(ref.model, policy.place(ref.provider)) for ref in (*refs, *policy.ladder)}
    return named | {tagged(name, Place.LOCAL) for name in policy.models}
