"""The rules a task runs under: privacy, mode, providers. `headrace_contracts.floors` says who may change them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from headrace_contracts import floors
from headrace_contracts.events import Mode, Place, Preferences, Privacy, TaskSubmitted
from headrace_contracts.floors import Asked, Demands, Objection, Party, Terms
from headrace_contracts.frozen import cheaply_made
from headrace_models.local_servers import keeps_queries_inside

from headrace_router.decide.policy import Policy, RolePolicy


@cheaply_made
@dataclass(frozen=True, slots=True)
class TaskRules:
    """The rules that apply to one task.

    Attributes:
        privacy: How far its content may travel.
        mode: Where it runs; local for sensitive content, whatever was requested.
        consented: Providers that internal content may go to.
        preferred: Provider to try first.
        objection: Why it must not run at all.
        searching: Whether they are applied to its searches: one of our own search engines that asks others on the web
            then counts as one of them, as far as privacy goes.
    """

    privacy: Privacy
    mode: Mode
    consented: frozenset[str]
    preferred: str | None
    objection: Objection | None = None
    searching: bool = False

    def exclusion(self, provider: str, model: str, place: Place) -> tuple[str, str] | None:
        """Why a provider must not get this task, as a stable code and in words; None if it may."""
        excluded = Terms(self.privacy, self.mode, self.consented).exclusion(provider, place)
        if excluded is not None or not self._reaches_the_web(provider, model, place):
            return excluded
        if self.privacy is Privacy.SENSITIVE:
            return "privacy", "sensitive content is searched for only by an engine that is declared to reach no web"
        if self.privacy is Privacy.INTERNAL and provider not in self.consented:
            return "no_consent", "it searches the web, and internal content goes only to providers in the preferences"
        return None

    def _reaches_the_web(self, provider: str, model: str, place: Place) -> bool:
        return self.searching and place is Place.LOCAL and not keeps_queries_inside(provider, model)

    def reason(self, provider: str, model: str, place: Place) -> str:
        """Why a provider that may get this task may get it."""
        if self._reaches_the_web(provider, model, place):
            return self.reason(provider, model, Place.CLOUD)
        if place is Place.LOCAL:
            return f"{self.privacy} content, on local nodes"
        if self.privacy is Privacy.INTERNAL:
            return "internal content, provider named in the preferences"
        return f"{self.privacy} content"


def rules_for(
    task: TaskSubmitted,
    role: RolePolicy | None,
    policy: Policy,
    user: Preferences | None,
    tenant: Preferences | None,
    floor: Privacy | None = None,
    providers: Collection[str] = (),
) -> TaskRules:
    """The rules for a task.

    Args:
        floor: The level under which the task has run so far: it is never lowered, even if all demands are.
        providers: Those of the fleet, besides the policy's.
    """
    terms = floors.terms(
        Asked(task.privacy, task.mode, task.model, task.preferred_provider),
        {
            Party.TENANT: floors.demands_of_tenant(tenant),
            Party.USER: floors.demands_of_user(user),
            Party.ROLE: _demands_of(role),
        },
        lambda name: policy.place(name) if name in policy.providers or name in providers else None,
        default=Demands(floors.PRIVACY_OF_LEVEL[policy.defaults.privacy_level], policy.defaults.mode),
        by=Party.PRODUCER if task.key_id is None else Party.TASKS_KEY,
    )
    privacy, mode = terms.privacy, terms.mode
    if floors.is_below(privacy, floor):
        assert floor is not None
        privacy = floor
        mode = Mode.LOCAL if floor is Privacy.SENSITIVE else mode
    stated = [preferences for preferences in (user, tenant) if preferences is not None]
    requested = next((p.preferred_provider for p in stated if p.preferred_provider), None)
    return TaskRules(privacy, mode, terms.providers, task.preferred_provider or requested, terms.objection)


def _demands_of(role: RolePolicy | None) -> Demands:
    if role is None:
        return floors.NOTHING
    return Demands(Privacy.SENSITIVE if role.always_local else role.privacy)
