"""Which models may run a task, in which order, and why the others may not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headrace_contracts.cargo import has_urls
from headrace_contracts.events import (
    AttemptState,
    Failure,
    ModelOperation,
    ModelSettings,
    NodeStatus,
    Outcome,
    Place,
    Privacy,
    Rejection,
    TaskSubmitted,
)
from headrace_contracts.floors import Objection
from headrace_contracts.frozen import cheaply_made
from headrace_contracts.sites import NO_SITE
from headrace_contracts.switches import SWITCHED_OFF

from headrace_router.decide.costs import dollars, longest_prompt, most_in_options, most_tokens, worst_case
from headrace_router.decide.demands import capable, demands
from headrace_router.decide.kinds import INCAPABLE, Kind, kind_of, lacks, listed_by
from headrace_router.decide.measures import size_of_task
from headrace_router.decide.model import DecisionContext
from headrace_router.decide.offers import Room
from headrace_router.decide.ordering import (
    NOTHING_ASKED,
    in_order,
    left_out_by_name,
    parameters_of,
    strategy_of,
    too_slow,
)
from headrace_router.decide.policy import ModelRef, Policy, RolePolicy
from headrace_router.decide.reports import given_up, in_vain
from headrace_router.decide.retry import tries, unasked
from headrace_router.decide.rules import TaskRules

_BYTES_PER_TOKEN = 4
_NONE: frozenset[str] = frozenset()

NO_LOCAL_CAPACITY = "no_local_capacity"
NO_CAPACITY = "no_capacity"
OVER_BUDGET = "over_budget"
FAILED_BEFORE = "failed_before"
URL_NOT_PUBLIC = "url_not_public"
_PASSING = frozenset({NO_LOCAL_CAPACITY, NO_CAPACITY, SWITCHED_OFF})
"""Reasons that may pass before the deadline without a change of the task. What an operator has switched off an operator
switches on again: tasks that nothing else may run wait for that."""
_TELLING = (
    OVER_BUDGET, "context_too_small", INCAPABLE, "parameters_not_taken", "over_max_price", "too_slow", "data_rules",
    "privacy", "no_consent", "mode", "price_unknown", "ignored", "not_in_only", "no_fallbacks",
)  # fmt: skip
"""Which of several reasons a task's failure reports, the most informative first."""


@cheaply_made
@dataclass(frozen=True, slots=True)
class Candidate:
    """A model of a provider, and what an attempt at it may cost; `site` and `settings` are of local ones."""

    provider: str
    model: str
    place: Place
    max_output_tokens: int | None = None
    worst_case_nanodollars: int = 0
    site: str = NO_SITE
    settings: ModelSettings | None = None

    @property
    def name(self) -> str:
        return f"{self.provider}/{self.model}"


@dataclass(frozen=True, slots=True)
class NotNow:
    """A candidate that is passed over this time, and why; written `provider/model`."""

    name: str
    reason: str


@cheaply_made
@dataclass(frozen=True, slots=True)
class Choice:
    """The result of checking the candidates in order.

    Attributes:
        chosen: The first that may run the task now.
        rejected: Those before it, or all, each with its reason.
        reason: Why the chosen one may run it.
        may_come: Whether waiting can help if none is chosen.
        privacy: The level they were checked against.
        objection: Why none may be chosen at all.
        nodes: The usable nodes that offer the chosen one and can run the task.
    """

    chosen: Candidate | None
    rejected: tuple[Rejection, ...]
    privacy: Privacy
    reason: str = ""
    may_come: bool = False
    objection: Objection | None = None
    nodes: tuple[NodeStatus, ...] = ()

    def failure(self) -> Failure:
        """Why none was chosen."""
        if self.objection is not None:
            return Failure(code=self.objection.code, message=self.objection.message)
        codes = {rejection.code: rejection for rejection in self.rejected}
        if self.may_come:
            code = next((code for code in (SWITCHED_OFF, NO_CAPACITY) if code in codes), NO_LOCAL_CAPACITY)
        else:
            code = next((code for code in _TELLING if code in codes), self.rejected[-1].code if codes else NO_CAPACITY)
        found = codes.get(code)
        return Failure(code=code, message="" if found is None else f"{found.provider}/{found.model}: {found.detail}")


def choose(
    task: TaskSubmitted,
    role: RolePolicy | None,
    system_prompt: str | None,
    rules: TaskRules,
    attempts: Sequence[AttemptState],
    context: DecisionContext,
    not_now: NotNow | None = None,
) -> Choice:
    """The first eligible candidate in the order of the task's strategy.

    Those that were asked in vain come last: see `in_vain`. Those whose attempts asked nobody as often as there may be
    tries come after the others, the longest ago first: each gets its turn.
    """
    if rules.objection is not None:
        return Choice(None, (), rules.privacy, objection=rules.objection)
    if (off := context.switches.against_tenant(task.tenant, context.now)) is not None:
        return Choice(None, (), rules.privacy, objection=Objection(off.code, "tenant", off.message))
    if has_urls(task.messages) and rules.privacy is not Privacy.PUBLIC:
        # Whoever answers the address learns that it was asked for, and by whom.
        why = f"content at an address of the web is for public tasks only, and this one is {rules.privacy}"
        return Choice(None, (), rules.privacy, objection=Objection(URL_NOT_PUBLIC, "messages", why))
    policy = context.policy
    routing = task.routing or NOTHING_ASKED
    prompt_bytes = most_tokens(task.messages, system_prompt) + most_in_options(task.options)
    writes = task.operation is not ModelOperation.EMBED
    named = task.role or policy.defaults.role
    name = named if task.model is None and role is not None and role is policy.roles.get(named) else ""
    limit = task.sampling.max_output_tokens
    kind = kind_of(
        name, None if name else _known(task, role, context), role, rules, routing, demands(task),
        parameters_of(task) if routing.require_parameters else _NONE, context, names_options=_names_options(task),
    )  # fmt: skip
    size = size_of_task(prompt_bytes, limit, writes=writes)
    in_strategy = in_order(name, kind.known, strategy_of(routing, role, context), routing, size, context)
    without_fallback = None if routing.allow_fallbacks else _first_allowed(kind, in_strategy)
    order = kind.preferred_first(in_strategy)
    if attempts:
        order = _behind_what_failed(order, kind, attempts, policy)
    longest_bytes = longest_prompt(task, prompt_bytes)
    answers = 1 if task.options is None else task.options.choices
    left = None if task.budget_nanodollars is None else task.budget_nanodollars - spent(attempts)
    rejected: list[Rejection] = []
    reject = rejected.append
    switches = context.switches if context.switches.off else None
    slowest = routing.min_throughput is not None

    for index in order:
        one = kind.candidate(index)
        if one.excluded is not None:
            reject(one.excluded)
            continue
        if attempts and (failed := _history(one.ref, attempts, policy)) is not None:
            reject(one.rejection(*failed))
            continue
        if one.unwanted is not None:
            reject(one.unwanted)
            continue
        place = one.place
        if slowest and (slow := too_slow(one.ref, routing, context)) is not None:
            reject(one.rejection(*slow))
            continue
        if without_fallback is not None and one.ref != without_fallback:
            reject(one.rejection("no_fallbacks", "the task asks for no other model than its first"))
            continue
        if (
            switches is not None
            and (stopped := switches.against(one.provider, one.model, place, context.now)) is not None
        ):
            reject(one.rejection(SWITCHED_OFF, stopped))
            continue
        if not_now is not None and not_now.name == one.name:
            reject(one.rejection(FAILED_BEFORE, not_now.reason))
            continue
        if one.incapable is not None:
            reject(one.incapable)
            continue
        most_output = limit
        if limit is None and place is Place.CLOUD and writes:
            most_output = policy.attempts.max_output_tokens
        written = 0 if not writes else None if most_output is None else most_output * answers
        if left is not None:
            most = worst_case(one.price, prompt_bytes, written)
            if most is None:
                reject(one.rejection("price_unknown", "the task has a budget and the price book has no price for it"))
                continue
            if most > left:
                why = f"may cost {dollars(most)}, and {dollars(max(left, 0))} is left of the task's budget"
                reject(one.rejection(OVER_BUDGET, why))
                continue
        offer = context.fleet.offer(one.provider, one.model, place)
        usable = offer.usable(context.now)
        if one.labels:
            usable = tuple([n for n in usable if one.labels.items() <= offer.nodes[n].hardware.items()])
        if not usable:
            reject(one.absent)
            continue
        if kind.demanded:
            usable, lacking = capable(offer, usable, kind.demanded)
            if not usable:
                reject(one.rejection(INCAPABLE, lacks(lacking)))
                continue
        asked = one.asked_context
        if asked is not None and asked * _BYTES_PER_TOKEN < longest_bytes:
            reject(one.rejection("context_too_small", f"num_ctx is {asked} tokens, what is to be read has more"))
            continue
        nodes, longest = _roomy(offer.rooms(usable), longest_bytes)
        if not nodes:
            why = f"its context holds {longest} tokens, what is to be read has more"
            reject(one.rejection("context_too_small", why))
            continue
        chosen = Candidate(
            one.provider, one.model, place, most_output, worst_case(one.price, prompt_bytes, written) or 0, NO_SITE,
            one.settings,
        )  # fmt: skip
        return Choice(chosen, tuple(rejected), rules.privacy, one.reason, nodes=nodes)
    may_come = any(rejection.code in _PASSING for rejection in rejected)
    return Choice(None, tuple(rejected), rules.privacy, may_come=may_come)


def _behind_what_failed(
    order: Sequence[int], kind: Kind, attempts: Sequence[AttemptState], policy: Policy
) -> Sequence[int]:
    """The candidates that were asked in vain last, and after the others those whose attempts asked nobody."""
    vain = {(attempt.provider, attempt.model) for attempt in attempts if in_vain(attempt)}
    turns = {
        name: numbers[-1]
        for name, numbers in unasked(attempts).items()
        if len(numbers) >= policy.retry.attempts_per_model
    }
    if not vain and not turns:
        return order
    names = [(ref.provider, ref.model) for ref in kind.known]
    return sorted(order, key=lambda place: (names[place] in vain, turns.get(names[place], 0)))


def _first_allowed(kind: Kind, order: Sequence[int]) -> ModelRef | None:
    """The one model that may run a task without fallbacks: the first that the task does not leave out itself."""
    refs = (kind.known[place] for place in order)
    return next((ref for ref in refs if left_out_by_name(ref, kind.routing) is None), None)


def spent(attempts: Sequence[AttemptState]) -> int:
    """What a task's attempts have cost, in nano-dollars; one without a known outcome counts with its worst case, and so
    does each execution that was lost."""
    return sum(
        attempt.possibly_billed_nanodollars
        + (attempt.worst_case_nanodollars if attempt.outcome is None or given_up(attempt) else attempt.cost_nanodollars)
        for attempt in attempts
    )


def unknown_model(task: TaskSubmitted, context: DecisionContext) -> bool:
    """Whether a task names a model that does not exist. With no node up that could have it, that is not decidable."""
    if task.model is None:
        return False
    named = _named_provider(task.model, context)
    if named is None:
        return context.fleet.has_usable(context.now) and not _anywhere(task.model, context)
    return (
        named not in _listed(context.policy)
        and context.fleet.has_usable(context.now, named.provider)
        and not _nodes(named, context.policy.place(named.provider), context.policy, context)
    )


def _known(task: TaskSubmitted, role: RolePolicy | None, context: DecisionContext) -> Sequence[ModelRef]:
    policy = context.policy
    if task.model is not None:
        named = _named_provider(task.model, context)
        if named is not None:
            return (named,)
        return _anywhere(task.model, context) or _ours(task.model, policy)
    return listed_by(role, policy)


def _named_provider(model: str, context: DecisionContext) -> ModelRef | None:
    # Model names may contain slashes, so a prefix counts only if it is the name of a provider.
    provider, slash, rest = model.partition("/")
    known = provider in context.policy.providers or provider in context.fleet.providers
    return ModelRef(provider=provider, model=rest) if slash and rest and known else None


def _ours(model: str, policy: Policy) -> Sequence[ModelRef]:
    return [ModelRef(provider=n, model=model) for n, p in policy.providers.items() if p.place is Place.LOCAL]


def _anywhere(model: str, context: DecisionContext) -> Sequence[ModelRef]:
    policy = context.policy
    refs = [ModelRef(provider=name, model=model) for name, _ in context.fleet.providers_of(model, context.now)]
    refs += [ref for ref in _listed(policy) if ref.model == model]
    refs.sort(key=lambda ref: policy.place(ref.provider) is not Place.LOCAL)
    return tuple(dict.fromkeys(refs))


def _listed(policy: Policy) -> Sequence[ModelRef]:
    return [*(ref for role in policy.roles.values() for ref in (*role.models, *(role.ladder or ()))), *policy.ladder]


def _nodes(ref: ModelRef, place: Place, policy: Policy, context: DecisionContext) -> Sequence[NodeStatus]:
    nodes = context.fleet.offering(ref.provider, ref.model, place, context.now)
    needs: Mapping[str, str] = policy.models[ref.model].hardware if ref.model in policy.models else {}
    return [node for node in nodes if needs.items() <= node.hardware.items()] if needs else nodes


def _roomy(rooms: Sequence[Room], longest_bytes: int) -> tuple[tuple[NodeStatus, ...], int]:
    """The nodes of the sites with a long enough context for so many bytes, and the longest context of the others, in
    tokens."""
    found: tuple[NodeStatus, ...] = ()
    longest_of_others = 0
    for nodes, longest in rooms:
        if longest is None or longest * _BYTES_PER_TOKEN >= longest_bytes:
            found = found + nodes if found else nodes
        else:
            longest_of_others = max(longest_of_others, longest)
    return found, longest_of_others


def _names_options(task: TaskSubmitted) -> bool:
    """Whether the caller has options of Ollama's own: one of them may be the length of the context."""
    return task.options is not None and "options" in task.options.extra


def _history(ref: ModelRef, attempts: Sequence[AttemptState], policy: Policy) -> tuple[str, str] | None:
    before = [a for a in attempts if (a.provider, a.model) == (ref.provider, ref.model)]
    if any(attempt.outcome is Outcome.FAILED_PERMANENT for attempt in before):
        return FAILED_BEFORE, "it has failed permanently"
    if (failed := tries(before)) >= policy.retry.attempts_per_model:
        return FAILED_BEFORE, f"it has failed {failed} times"
    return None
