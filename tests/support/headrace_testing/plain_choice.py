"""The choice of a model written plainly: every candidate is looked at anew for each task, with nothing remembered.

The router's own choice remembers what is equal for many tasks, and must choose the same: tests compare the two.
"""

from __future__ import annotations

from collections.abc import Sequence

from headrace_contracts.events import (
    AttemptState,
    ModelOperation,
    NodeStatus,
    Place,
    Rejection,
    Routing,
    TaskSubmitted,
)
from headrace_contracts.switches import SWITCHED_OFF
from headrace_router.decide.candidates import (
    _BYTES_PER_TOKEN,
    _PASSING,
    FAILED_BEFORE,
    NO_CAPACITY,
    NO_LOCAL_CAPACITY,
    OVER_BUDGET,
    Candidate,
    Choice,
    NotNow,
    _history,
    _known,
    _names_options,
    spent,
)
from headrace_router.decide.costs import dollars, longest_prompt, most_in_options, most_tokens, worst_case
from headrace_router.decide.demands import demands
from headrace_router.decide.fleet import tagged, usable
from headrace_router.decide.kinds import INCAPABLE
from headrace_router.decide.measures import Measures, Size, measures, price_of, size_of_task
from headrace_router.decide.model import DecisionContext
from headrace_router.decide.ordering import (
    NOTHING_ASKED,
    data_rules,
    left_out,
    left_out_by_name,
    names_of,
    parameters_of,
    strategy_of,
)
from headrace_router.decide.policy import ModelRef, Policy, RolePolicy
from headrace_router.decide.reports import in_vain
from headrace_router.decide.retry import unasked
from headrace_router.decide.rules import TaskRules
from headrace_router.decide.strategies import ranked


def plainly_chosen(
    task: TaskSubmitted,
    role: RolePolicy | None,
    system_prompt: str | None,
    rules: TaskRules,
    attempts: Sequence[AttemptState],
    context: DecisionContext,
    not_now: NotNow | None = None,
) -> Choice:
    """As `choose`, for a task to which neither rules nor switches object as a whole."""
    policy = context.policy
    routing = task.routing or NOTHING_ASKED
    prompt_bytes = most_tokens(task.messages, system_prompt) + most_in_options(task.options)
    writes = task.operation is not ModelOperation.EMBED
    size = size_of_task(prompt_bytes, task.sampling.max_output_tokens, writes=writes)
    known = _in_order(_known(task, role, context), strategy_of(routing, role, context), routing, size, context)
    parameters = parameters_of(task) if routing.require_parameters else frozenset()
    without_fallback = (
        None
        if routing.allow_fallbacks
        else next((ref for ref in known if left_out_by_name(ref, routing) is None), None)
    )
    vain = {(attempt.provider, attempt.model) for attempt in attempts if in_vain(attempt)}
    turns = {
        name: numbers[-1]
        for name, numbers in unasked(attempts).items()
        if len(numbers) >= policy.retry.attempts_per_model
    }
    preferred = None if routing.order else rules.preferred
    ordered = known
    if vain or turns or preferred:
        ordered = sorted(
            known,
            key=lambda ref: (
                (ref.provider, ref.model) in vain,
                turns.get((ref.provider, ref.model), 0),
                bool(preferred) and ref.provider != preferred,
            ),
        )
    longest_bytes = longest_prompt(task, prompt_bytes)
    answers = 1 if task.options is None else task.options.choices
    demanded = demands(task)
    left = None if task.budget_nanodollars is None else task.budget_nanodollars - spent(attempts)
    rejected: list[Rejection] = []

    def reject(ref: ModelRef, code: str, detail: str) -> None:
        rejected.append(Rejection(provider=ref.provider, model=ref.model, code=code, detail=detail))

    for ref in ordered:
        place = policy.place(ref.provider)
        excluded = rules.exclusion(ref.provider, ref.model, place) or _history(ref, attempts, policy)
        if excluded is not None:
            reject(ref, *excluded)
            continue
        if (unwanted := _left_out(ref, routing, context, parameters)) is not None:
            reject(ref, *unwanted)
            continue
        if without_fallback is not None and ref != without_fallback:
            reject(ref, "no_fallbacks", "the task asks for no other model than its first")
            continue
        if (stopped := context.switches.against(ref.provider, ref.model, place, context.now)) is not None:
            reject(ref, SWITCHED_OFF, stopped)
            continue
        if not_now is not None and not_now.name == f"{ref.provider}/{ref.model}":
            reject(ref, FAILED_BEFORE, not_now.reason)
            continue
        if lacking := policy.incapable(ref.provider, ref.model, demanded):
            reject(ref, INCAPABLE, f"it cannot do what the task demands: {', '.join(sorted(lacking))}")
            continue
        limit = task.sampling.max_output_tokens
        if limit is None and place is Place.CLOUD and writes:
            limit = policy.attempts.max_output_tokens
        written = 0 if not writes else None if limit is None else limit * answers
        most = worst_case(price_of(context.prices, ref), prompt_bytes, written)
        if left is not None and most is None:
            reject(ref, "price_unknown", "the task has a budget and the price book has no price for it")
            continue
        if left is not None and most is not None and most > left:
            reject(
                ref, OVER_BUDGET, f"may cost {dollars(most)}, and {dollars(max(left, 0))} is left of the task's budget"
            )
            continue
        nodes = _nodes(ref, place, policy, context)
        if not nodes:
            code = NO_LOCAL_CAPACITY if place is Place.LOCAL else NO_CAPACITY
            reject(
                ref,
                code,
                "no healthy local node offers it" if place is Place.LOCAL else "no provider offers it now",
            )
            continue
        nodes, lacking = _capable(nodes, ref.model, place, demanded)
        if not nodes:
            reject(ref, INCAPABLE, f"it cannot do what the task demands: {', '.join(sorted(lacking))}")
            continue
        settings = policy.settings(role, ref.model) if place is Place.LOCAL else None
        asked = None if settings is None or _names_options(task) else settings.num_ctx
        if asked is not None and asked * _BYTES_PER_TOKEN < longest_bytes:
            reject(ref, "context_too_small", f"num_ctx is {asked} tokens, what is to be read has more")
            continue
        nodes, longest = _roomy(nodes, ref.model, place, longest_bytes)
        if not nodes:
            reject(ref, "context_too_small", f"its context holds {longest} tokens, what is to be read has more")
            continue
        memory = policy.models[ref.model].size_gb if place is Place.LOCAL and ref.model in policy.models else None
        reason = rules.reason(ref.provider, ref.model, place) + ("" if memory is None else f"; {memory:g} GB")
        return Choice(
            Candidate(ref.provider, ref.model, place, limit, most or 0, settings=settings), tuple(rejected),
            rules.privacy, reason, nodes=tuple(nodes),
        )  # fmt: skip
    may_come = any(rejection.code in _PASSING for rejection in rejected)
    return Choice(None, tuple(rejected), rules.privacy, may_come=may_come)


def _in_order(
    known: Sequence[ModelRef], strategy: str, routing: Routing, size: Size, context: DecisionContext
) -> Sequence[ModelRef]:
    throughput = routing.min_throughput or context.policy.throughput
    figures = [_measures(ref, size, context) for ref in known]
    order = [known[place] for place in ranked(strategy, figures, throughput)]  # type: ignore[arg-type]
    if not routing.order:
        return order
    places = {name: place for place, name in reversed(list(enumerate(routing.order)))}
    return sorted(order, key=lambda ref: min(places.get(name, len(places)) for name in names_of(ref)))


def _measures(ref: ModelRef, size: Size, context: DecisionContext) -> Measures:
    place = context.policy.place(ref.provider)
    name = tagged(ref.model, place)
    offered = [
        (node, model)
        for node in context.fleet.nodes
        if node.healthy and (node.provider, node.place) == (ref.provider, place)
        for model in node.models
        if tagged(model.name, place) == name
    ]
    return measures(ref, place, offered, size, context.policy, context.prices)


def _left_out(
    ref: ModelRef, routing: Routing, context: DecisionContext, parameters: frozenset[str]
) -> tuple[str, str] | None:
    policy, prices = context.policy, context.prices
    found = left_out(ref, routing, data_rules(routing, context), parameters, policy, prices)
    if found is not None or routing.min_throughput is None or routing.strategy == "throughput-at-least":
        return found
    speed = _measures(ref, Size(1, 1), context).tokens_per_second
    if speed is not None and speed < routing.min_throughput:
        return "too_slow", f"it has written {speed:.0f} tokens per second, the task asks for {routing.min_throughput:g}"
    return None


def _nodes(ref: ModelRef, place: Place, policy: Policy, context: DecisionContext) -> list[NodeStatus]:
    name = tagged(ref.model, place)
    needs = policy.models[ref.model].hardware if ref.model in policy.models else {}
    return [
        node
        for node in context.fleet.nodes
        if usable(node, context.now)
        and (node.provider, node.place) == (ref.provider, place)
        and any(tagged(model.name, place) == name for model in node.models)
        and needs.items() <= node.hardware.items()
    ]


def _capable(
    nodes: Sequence[NodeStatus], model: str, place: Place, demanded: frozenset[str]
) -> tuple[list[NodeStatus], frozenset[str]]:
    able, lacking = [], set[str]()
    for node in nodes:
        told = [one.capabilities for one in node.models if tagged(one.name, place) == tagged(model, place)]
        lacks = min((demanded - frozenset(demanded if one is None else one) for one in told), key=len)
        lacking |= lacks
        able += [] if lacks else [node]
    return able, frozenset(lacking)


def _roomy(nodes: Sequence[NodeStatus], model: str, place: Place, longest_bytes: int) -> tuple[list[NodeStatus], int]:
    found: list[NodeStatus] = []
    longest_of_others = 0
    for site in dict.fromkeys(node.site for node in nodes):
        there = [node for node in nodes if node.site == site]
        sizes = [m.context_tokens for n in there for m in n.models if tagged(m.name, place) == tagged(model, place)]
        known = [size for size in sizes if size is not None]
        longest = max(known) if known and len(known) == len(sizes) else None
        if longest is None or longest * _BYTES_PER_TOKEN >= longest_bytes:
            found += there
        else:
            longest_of_others = max(longest_of_others, longest)
    return found, longest_of_others
