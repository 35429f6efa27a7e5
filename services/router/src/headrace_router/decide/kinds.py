"""What is the same for all tasks of a kind, whatever the fleet and the time: looked at once, and remembered.

Tasks are of one kind if the same policy, role, rules, routing, demands and prices apply to them. Of each candidate it
then is the same whether policy and rules let it run them, and why not, what it costs and how it is asked. That is a
`KnownCandidate`. What depends on the task itself, its attempts, the fleet or the time is found out for each task:
`decide.candidates`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from headrace_contracts.events import ModelSettings, Place, Rejection, Routing
from headrace_models.prices import Price, PriceBook

from headrace_router.decide.measures import price_of
from headrace_router.decide.model import DecisionContext
from headrace_router.decide.ordering import NOTHING_ASKED, data_rules, left_out
from headrace_router.decide.policy import ModelRef, Policy, RolePolicy
from headrace_router.decide.rules import TaskRules

MOST_KINDS: Final = 8_192
"""That are remembered. What a task asks for is its author's choice, so that there may be any number of them."""
INCAPABLE: Final = "incapable"


class KnownCandidate:
    """One candidate for the tasks of a kind.

    Attributes:
        excluded: Why the rules of the task leave it out.
        unwanted: Why the task's routing or the data rules do.
        incapable: Why it cannot do what is demanded, as the policy says.
        absent: What is said of it where nobody offers it.
        labels: Labels that a node must have to count as offering it.
        price: None if the price book has none.
        asked_context: Context that it is asked to load, in tokens; None if that is left to its node.
        reason: Why it may run these tasks.
    """

    __slots__ = (
        "absent", "asked_context", "excluded", "incapable", "labels", "model", "name", "place", "price", "provider",
        "reason", "ref", "settings", "unwanted",
    )  # fmt: skip

    def __init__(self, ref: ModelRef, kind: Kind) -> None:
        policy, rules, provider, model = kind.policy, kind.rules, ref.provider, ref.model
        self.ref, self.provider, self.model, self.name = ref, provider, model, f"{provider}/{model}"
        self.place = place = policy.place(provider)
        is_local = place is Place.LOCAL
        self.excluded = self._rejected(rules.exclusion(provider, model, place))
        self.unwanted = self._rejected(kind.left_out(ref))
        lacking = policy.incapable(provider, model, kind.demanded)
        self.incapable = self._rejected((INCAPABLE, lacks(lacking)) if lacking else None)
        self.absent = Rejection(
            provider=provider,
            model=model,
            code="no_local_capacity" if is_local else "no_capacity",
            detail="no healthy local node offers it" if is_local else "no provider offers it now",
        )
        facts = policy.models.get(model)
        self.labels = facts.hardware if facts is not None else {}
        self.price: Price | None = price_of(kind.prices, ref)
        self.settings: ModelSettings | None = policy.settings(kind.role, model) if is_local else None
        self.asked_context = None if self.settings is None or kind.names_options else self.settings.num_ctx
        size = facts.size_gb if is_local and facts is not None else None
        self.reason = rules.reason(provider, model, place) + ("" if size is None else f"; {size:g} GB")

    def _rejected(self, why: tuple[str, str] | None) -> Rejection | None:
        if why is None:
            return None
        return Rejection(provider=self.provider, model=self.model, code=why[0], detail=why[1])

    def rejection(self, code: str, detail: str) -> Rejection:
        """That it may not run a task, and why."""
        return Rejection(provider=self.provider, model=self.model, code=code, detail=detail)


class Kind:
    """The candidates for the tasks of a kind.

    Attributes:
        known: All of them, as they are listed.
        names_options: Whether the caller has options of Ollama's own: one of them may be the length of the context.
    """

    __slots__ = (
        "_data",
        "_looked_at",
        "_orders",
        "demanded",
        "known",
        "names_options",
        "parameters",
        "policy",
        "prices",
        "role",
        "routing",
        "rules",
    )  # fmt: skip

    def __init__(
        self,
        known: Sequence[ModelRef],
        role: RolePolicy | None,
        rules: TaskRules,
        routing: Routing,
        demanded: frozenset[str],
        parameters: frozenset[str],
        context: DecisionContext,
        *,
        names_options: bool,
    ) -> None:
        self.policy: Policy = context.policy
        self.prices: PriceBook = context.prices
        self.known, self.role, self.rules, self.routing = known, role, rules, routing
        self.demanded, self.parameters, self.names_options = demanded, parameters, names_options
        self._data = data_rules(routing, context)
        self._looked_at: list[KnownCandidate | None] = [None] * len(known)
        self._orders: tuple[Sequence[int], Sequence[int]] = ((), ())

    def left_out(self, ref: ModelRef) -> tuple[str, str] | None:
        """Why the tasks' routing, or the data rules, leave a candidate out."""
        return left_out(ref, self.routing, self._data, self.parameters, self.policy, self.prices)

    def candidate(self, place: int) -> KnownCandidate:
        """The candidate at this place."""
        found = self._looked_at[place]
        if found is None:
            found = self._looked_at[place] = KnownCandidate(self.known[place], self)
        return found

    def preferred_first(self, order: Sequence[int]) -> Sequence[int]:
        """An order, after the candidates of the provider that the rules prefer."""
        preferred = self.rules.preferred
        if not preferred or self.routing.order:
            return order
        if self._orders[0] is not order:
            known = self.known
            self._orders = order, sorted(order, key=lambda place: known[place].provider != preferred)
        return self._orders[1]


def kind_of(
    name: str,
    known: Sequence[ModelRef] | None,
    role: RolePolicy | None,
    rules: TaskRules,
    routing: Routing,
    demanded: frozenset[str],
    parameters: frozenset[str],
    context: DecisionContext,
    *,
    names_options: bool,
) -> Kind:
    """The kind of a task, whose candidates are listed by the role of this name, or else are the known ones."""
    kinds = context.fleet.kinds
    asked = None if routing is NOTHING_ASKED else routing
    listed_as = name if known is None else tuple(known)
    about = context.policy.version, listed_as, rules, asked, demanded, parameters, names_options
    found: Kind | None = kinds.get(about)
    if (
        found is None
        or found.role is not role
        or found.policy is not context.policy
        or found.prices is not context.prices
    ):
        listed = listed_by(role, context.policy) if known is None else known
        found = Kind(listed, role, rules, routing, demanded, parameters, context, names_options=names_options)
        if len(kinds) >= MOST_KINDS:
            kinds.clear()
        kinds[about] = found
    return found


def listed_by(role: RolePolicy | None, policy: Policy) -> Sequence[ModelRef]:
    """The models of a role, and those of the cloud ladder."""
    return () if role is None else role.models + (policy.ladder if role.ladder is None else role.ladder)


def lacks(lacking: frozenset[str]) -> str:
    """What a model cannot do, in words."""
    return f"it cannot do what the task demands: {', '.join(sorted(lacking))}"
