"""In which order candidates are considered, and which of them a task, or the data rules, leave out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from headrace_contracts.events import Place, Routing, TaskSubmitted
from headrace_contracts.limits import NANODOLLARS_IN_A_DOLLAR
from headrace_contracts.narrowing import Strategy
from headrace_models.parameters import parameters_taken
from headrace_models.prices import PriceBook

from headrace_router.decide.fleet import tagged
from headrace_router.decide.measures import Measures, Size, measures, price_of
from headrace_router.decide.model import DecisionContext
from headrace_router.decide.offers import NO_OFFER
from headrace_router.decide.policy import DataRules, ModelRef, Policy, RolePolicy
from headrace_router.decide.strategies import Ranking

NOTHING_ASKED: Final = Routing()

_MOST_RANKINGS: Final = 2_000
"""That are remembered: tasks may ask for any number of different ones."""
_MOST_FIGURES: Final = 512
"""Of one model that are remembered: sizes are powers of two, and few qualities are stated."""
_PARAMETERS: Final = (
    "top_k", "presence_penalty", "frequency_penalty", "reasoning_effort", "verbosity", "service_tier", "dimensions",
)  # fmt: skip


def strategy_of(routing: Routing, role: RolePolicy | None, context: DecisionContext) -> Strategy:
    """The strategy of a task: its own, else its role's, else the policy's."""
    if routing.strategy is not None:
        return routing.strategy  # type: ignore[return-value]  # admission has let it in
    return (None if role is None else role.strategy) or context.policy.strategy


def in_order(
    name: str, known: Sequence[ModelRef], strategy: Strategy, routing: Routing, size: Size, context: DecisionContext
) -> Sequence[int]:
    """The places of the candidates in the order of a strategy, after those that the task names in an order of its own.
    `name` is that of the role that lists them; empty if none does.

    A ranking is remembered with the fleet: tasks of a size have the same, and a report changes few of its figures.
    """
    if strategy == "listed" or len(known) < 2:
        order: Sequence[int] = range(len(known))
    else:
        throughput = routing.min_throughput or context.policy.throughput
        # The candidates of a role follow from its name and the policy, and to compare hundreds of them takes long.
        about = name or tuple(known), strategy, size, throughput, context.policy.version
        rankings = context.fleet.rankings
        found = rankings.get(about)
        if found is None:
            found = _RankingAt(known, strategy, size, throughput, context)
            if len(rankings) >= _MOST_RANKINGS:
                rankings.clear()
            rankings[about] = found
        order = found.order_in(context)
    if not routing.order:
        return order
    places = {name: place for place, name in reversed(list(enumerate(routing.order)))}
    last = len(places)
    return sorted(order, key=lambda place: min(places.get(name, last) for name in names_of(known[place])))


class _RankingAt:
    """A ranking, and the state of the fleet that it is of."""

    __slots__ = ("_known", "_number", "_places", "_ranking", "_size")

    def __init__(
        self, known: Sequence[ModelRef], strategy: Strategy, size: Size, throughput: float, context: DecisionContext
    ) -> None:
        self._known, self._size, self._number = known, size, context.fleet.number
        self._ranking = Ranking(strategy, [_measures(ref, size, context) for ref in known], throughput)
        self._places: dict[tuple[str, str], list[int]] = {}
        for place, ref in enumerate(known):
            name = ref.provider, tagged(ref.model, context.policy.place(ref.provider))
            self._places.setdefault(name, []).append(place)

    def order_in(self, context: DecisionContext) -> Sequence[int]:
        """The order in the newest state of the fleet."""
        fleet = context.fleet
        if fleet.number != self._number:
            moved = [place for name in fleet.moved_since(self._number) for place in self._places.get(name, ())]
            self._number = fleet.number
            if moved:
                self._ranking.change({place: _measures(self._known[place], self._size, context) for place in moved})
        return self._ranking.order


def _measures(ref: ModelRef, size: Size, context: DecisionContext) -> Measures:
    place = context.policy.place(ref.provider)
    # Whether they can be used now is found out when their turn comes: the order is of one fleet, whatever the time.
    offer = context.fleet.offer(ref.provider, ref.model, place)
    if offer is NO_OFFER:
        return measures(ref, place, (), size, context.policy, context.prices)
    # Many roles list a model, with sizes and in orders of their own.
    about = size, context.policy.quality(ref.provider, ref.model), ref.model
    found = offer.figures.get(about)
    if found is None or found[0] is not context.prices:
        found = context.prices, measures(ref, place, offer.healthy, size, context.policy, context.prices)
        if len(offer.figures) >= _MOST_FIGURES:
            offer.figures.clear()
        offer.figures[about] = found
    return found[1]


def names_of(ref: ModelRef) -> tuple[str, str]:
    """What a model is called in lists: by its provider, and exactly."""
    return ref.provider, f"{ref.provider}/{ref.model}"


def left_out_by_name(ref: ModelRef, routing: Routing) -> tuple[str, str] | None:
    """Why a task has named a candidate, or others, so that it is none; as `left_out`."""
    names = names_of(ref)
    if routing.only and not any(name in routing.only for name in names):
        return "not_in_only", "the task asks for others only"
    if any(name in routing.ignore for name in names):
        return "ignored", "the task asks not to use it"
    return None


def left_out(
    ref: ModelRef,
    routing: Routing,
    rules: DataRules,
    parameters: Collection[str],
    policy: Policy,
    prices: PriceBook,
) -> tuple[str, str] | None:
    """Why a candidate is none for a task, whatever the fleet, as a stable code and in words; None if it is one."""
    if (unwanted := left_out_by_name(ref, routing)) is not None:
        return unwanted
    if (
        policy.place(ref.provider) is not Place.LOCAL
        and (broken := rules.broken_by(policy.handling(ref.provider))) is not None
    ):
        return "data_rules", broken
    if routing.require_parameters and (lost := set(parameters) - parameters_taken(ref.provider, ref.model)):
        return "parameters_not_taken", f"it does not take {', '.join(sorted(lost))}"
    return _too_dear(ref, routing, prices)


def _too_dear(ref: ModelRef, routing: Routing, prices: PriceBook) -> tuple[str, str] | None:
    if routing.max_input_price is None and routing.max_output_price is None:
        return None
    price = price_of(prices, ref)
    if price is None:
        return "price_unknown", "the task has a highest price and the price book has no price for it"
    for what, asked, found in (
        ("input", routing.max_input_price, price.tokens.input),
        ("output", routing.max_output_price, price.tokens.output),
    ):
        if asked is not None and found > asked:
            return (
                "over_max_price",
                f"its {what} costs {_dollars(found)} per million tokens, the task allows {_dollars(asked)}",
            )
    return None


def too_slow(ref: ModelRef, routing: Routing, context: DecisionContext) -> tuple[str, str] | None:
    """Why a candidate is none, by what its nodes have been seen to do; as `left_out`."""
    if routing.min_throughput is None or routing.strategy == "throughput-at-least":
        return None
    speed = _measures(ref, Size(1, 1), context).tokens_per_second
    if speed is not None and speed < routing.min_throughput:
        return "too_slow", f"it has written {speed:.0f} tokens per second, the task asks for {routing.min_throughput:g}"
    return None


def data_rules(routing: Routing, context: DecisionContext) -> DataRules:
    """What providers must fulfil for a task."""
    if not (routing.deny_data_collection or routing.zero_retention):
        return context.policy.data
    asked = DataRules(deny_collection=routing.deny_data_collection, zero_retention=routing.zero_retention)
    return context.policy.data.and_also(asked)


def parameters_of(task: TaskSubmitted) -> frozenset[str]:
    """The parameters of its answer that a task sets."""
    sampling, options = task.sampling, task.options
    found = {name for name in ("temperature", "top_p", "seed") if getattr(sampling, name) is not None}
    found |= {"stop"} if sampling.stop else set()
    found |= {"json"} if sampling.json else set()
    if options is not None:
        found |= {name for name in _PARAMETERS if getattr(options, name) is not None}
        found |= {"logit_bias"} if options.logit_bias else set()
    return frozenset(found)


def _dollars(nanodollars: int) -> str:
    return f"${nanodollars / NANODOLLARS_IN_A_DOLLAR:g}"
