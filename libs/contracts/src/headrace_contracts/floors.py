"""How far a task may travel: who may raise and who may lower that, and what follows. Intake and the router decide here.

Three matters have an order. Privacy: public < internal < sensitive; in preferences low < standard < high. Mode: cloud <
hybrid < local. Providers that internal content may go to: a set is lower than each of its subsets.

`RIGHTS` is the only place that says who may do what; every decision below looks it up, and docs/privacy.md shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum, StrEnum
from functools import lru_cache
from typing import Final

from headrace_contracts.events import Mode, Place, Preferences, Privacy, PrivacyLevel

CONTRADICTION: Final = "contradiction"
BELOW_FLOOR: Final = "below_floor"


class Matter(StrEnum):
    """What can be raised and lowered."""

    PRIVACY = "privacy"
    MODE = "mode"
    PROVIDERS = "providers"


class Party(StrEnum):
    """Who demands something of a task, or changes what is demanded."""

    TENANT = "the tenant's preferences"
    USER = "the user's preferences"
    ROLE = "the role in the routing policy"
    TASKS_KEY = "a key with the scope `tasks`"
    PREFERENCES_KEY = "a key with the scope `preferences`"
    ADMIN_KEY = "a key with the scope `admin`"
    PRODUCER = "a producer to Kafka"


class Target(StrEnum):
    """What is raised or lowered."""

    TASK = "what a task runs under"
    USER_PREFERENCES = "a user's preferences"
    TENANT_PREFERENCES = "the tenant's preferences"


class Permission(Enum):
    """What a party may do with one matter of a target."""

    NONE = "no"
    RAISE = "raise"
    ALL = "raise and lower"

    @property
    def raises(self) -> bool:
        return self is not Permission.NONE

    @property
    def lowers(self) -> bool:
        return self is Permission.ALL


def _of_all(right: Permission) -> Mapping[Matter, Permission]:
    return dict.fromkeys(Matter, right)


RIGHTS: Final[Mapping[tuple[Party, Target], Mapping[Matter, Permission]]] = {
    # The policy has a default for tenants that say nothing; a tenant may set itself above or below it.
    (Party.TENANT, Target.TASK): _of_all(Permission.ALL),
    (Party.USER, Target.TASK): _of_all(Permission.RAISE),
    (Party.ROLE, Target.TASK): _of_all(Permission.RAISE),
    (Party.TASKS_KEY, Target.TASK): _of_all(Permission.RAISE),
    # Who may change what is demanded is bound by it, too, until it is changed.
    (Party.ADMIN_KEY, Target.TASK): _of_all(Permission.RAISE),
    (Party.PREFERENCES_KEY, Target.TASK): _of_all(Permission.NONE),
    (Party.PRODUCER, Target.TASK): _of_all(Permission.RAISE),
    (Party.TASKS_KEY, Target.USER_PREFERENCES): _of_all(Permission.RAISE),
    (Party.PREFERENCES_KEY, Target.USER_PREFERENCES): _of_all(Permission.ALL),
    (Party.ADMIN_KEY, Target.USER_PREFERENCES): _of_all(Permission.ALL),
    (Party.TASKS_KEY, Target.TENANT_PREFERENCES): _of_all(Permission.NONE),
    (Party.PREFERENCES_KEY, Target.TENANT_PREFERENCES): _of_all(Permission.ALL),
    (Party.ADMIN_KEY, Target.TENANT_PREFERENCES): _of_all(Permission.ALL),
}
"""A pair that is missing has no right."""

Level = Privacy | Mode | frozenset[str]
PlaceOf = Callable[[str], Place | None]
"""Where a provider runs models; None for a name that is no provider's."""

_RANK: Final[Mapping[Privacy | Mode, int]] = {
    Privacy.PUBLIC: 0, Privacy.INTERNAL: 1, Privacy.SENSITIVE: 2,
    Mode.CLOUD: 0, Mode.HYBRID: 1, Mode.LOCAL: 2,
}  # fmt: skip
PRIVACY_OF_LEVEL: Final[Mapping[PrivacyLevel, Privacy]] = {
    PrivacyLevel.LOW: Privacy.PUBLIC,
    PrivacyLevel.STANDARD: Privacy.INTERNAL,
    PrivacyLevel.HIGH: Privacy.SENSITIVE,
}
"""What a level of the preferences demands."""


@dataclass(frozen=True, slots=True)
class Demands:
    """What one party demands; None: nothing.

    Attributes:
        providers: Those that internal content may go to.
    """

    privacy: Privacy | None = None
    mode: Mode | None = None
    providers: frozenset[str] | None = None

    def of(self, matter: Matter) -> Level | None:
        level: Level | None = getattr(self, matter.value)
        return level


NOTHING: Final = Demands()


@dataclass(frozen=True, slots=True)
class Objection:
    """Why a task must not run as it asks to.

    Attributes:
        code: CONTRADICTION for what contradicts itself, BELOW_FLOOR for less than what is demanded.
        field: The task's field that is at fault.
    """

    code: str
    field: str
    message: str


@dataclass(frozen=True, slots=True)
class Asked:
    """What a task itself asks for; None: nothing."""

    privacy: Privacy | None = None
    mode: Mode | None = None
    model: str | None = None
    preferred_provider: str | None = None

    def of(self, matter: Matter) -> Level | None:
        return None if matter is Matter.PROVIDERS else Demands(self.privacy, self.mode).of(matter)


@dataclass(frozen=True, slots=True)
class Terms:
    """What a task runs under, or why it does not run.

    Attributes:
        privacy, mode, providers: With an objection, the strictest of all that was demanded.
    """

    privacy: Privacy
    mode: Mode
    providers: frozenset[str]
    objection: Objection | None = None

    def exclusion(self, provider: str, place: Place) -> tuple[str, str] | None:
        """Why a provider must not get the task, as a stable code and in words; None if it may."""
        if place is Place.CLOUD and self.privacy is Privacy.SENSITIVE:
            return "privacy", "sensitive content never leaves local nodes"
        if place is Place.CLOUD and self.mode is Mode.LOCAL:
            return "mode", "the mode is local"
        if place is Place.LOCAL and self.mode is Mode.CLOUD:
            return "mode", "the mode is cloud"
        if place is Place.CLOUD and self.privacy is Privacy.INTERNAL and provider not in self.providers:
            return "no_consent", "internal content goes only to providers named in the preferences"
        return None


def right_of(party: Party, target: Target, matter: Matter) -> Permission:
    """What a party may do."""
    return RIGHTS.get((party, target), {}).get(matter, Permission.NONE)


def stricter(one: Level | None, other: Level | None) -> Level | None:
    """The lowest level that is not below either; None demands nothing."""
    if one is None or other is None:
        return other if one is None else one
    if isinstance(one, frozenset) or isinstance(other, frozenset):
        assert isinstance(one, frozenset)
        assert isinstance(other, frozenset)
        return one & other
    return max(one, other, key=_RANK.__getitem__)


def is_below(level: Level | None, other: Level | None) -> bool:
    """Whether a level does not reach another one. Of two sets neither may reach the other."""
    return stricter(level, other) != level and _is_demand(other)


def demands_of_tenant(preferences: Preferences | None) -> Demands:
    """What a tenant's preferences demand. To prefer a provider is to consent to it."""
    if preferences is None:
        return NOTHING
    return Demands(_privacy(preferences), preferences.ai_mode, _consent(preferences))


def demands_of_user(preferences: Preferences | None) -> Demands:
    """What a user's preferences demand; without a list of providers, nothing about providers."""
    if preferences is None:
        return NOTHING
    providers = _consent(preferences) if preferences.allowed_providers else None
    return Demands(_privacy(preferences), preferences.ai_mode, providers)


def held(demands: Mapping[Party, Demands], base: Demands = NOTHING) -> Demands:
    """What tenant, user and role demand together, of a task for which `base` applies if none of them says anything."""

    def together(matter: Matter) -> Level | None:
        level = base.of(matter)
        for party, demanded in _in_order(demands, matter):
            right = right_of(party, Target.TASK, matter)
            if right.lowers:
                level = demanded
            elif right.raises:
                level = stricter(level, demanded)
        return level

    privacy, mode, providers = (together(matter) for matter in Matter)
    assert privacy is None or isinstance(privacy, Privacy)
    assert mode is None or isinstance(mode, Mode)
    assert providers is None or isinstance(providers, frozenset)
    return Demands(privacy, mode, providers)


def terms(
    asked: Asked, demands: Mapping[Party, Demands], place_of: PlaceOf, *, default: Demands = NOTHING,
    by: Party = Party.TASKS_KEY,
) -> Terms:  # fmt: skip
    """What a task runs under.

    Without a level of its own it gets what tenant, user and role demand, or the default. What it asks for below their
    demands is an objection; the default is no demand.

    Args:
        default: Of the routing policy; a level that it lacks counts as the lowest.
        by: Who asks.
    """
    of_tenant, of_user, of_role = (demands.get(party, NOTHING) for party in (Party.TENANT, Party.USER, Party.ROLE))
    found = _agreed(asked.privacy, asked.mode, of_tenant, of_user, of_role, default, by)
    contradicted = contradiction(asked, place_of)
    return found if contradicted is None else replace(found, objection=contradicted)


@lru_cache(maxsize=4096)
def _agreed(
    privacy: Privacy | None,
    mode: Mode | None,
    tenant: Demands,
    user: Demands,
    role: Demands,
    default: Demands,
    by: Party,
) -> Terms:
    # Few combinations occur, and each decision about a task asks for its own.
    asked, demands = Asked(privacy, mode), {Party.TENANT: tenant, Party.USER: user, Party.ROLE: role}
    floor = held(demands)
    # Nobody but tenants gives consent.
    usual = held(demands, replace(default, providers=default.providers or frozenset()))
    level, too_low = _settled(Matter.PRIVACY, asked, floor, usual, demands, by)
    where, too_far = _settled(Matter.MODE, asked, floor, usual, demands, by)
    assert isinstance(level, Privacy)
    assert isinstance(where, Mode)
    objection = too_low or too_far
    if level is Privacy.SENSITIVE:
        if where is Mode.CLOUD and mode is Mode.CLOUD and objection is None:
            whose = _whose(Matter.PRIVACY, level, demands)
            objection = Objection(
                BELOW_FLOOR,
                "mode",
                f"mode cloud is not for sensitive content, and {whose} {_demand(whose)} privacy sensitive: "
                "ask for local or hybrid, or leave mode out.",
            )
        where = Mode.LOCAL
    return Terms(level, where, usual.providers or frozenset(), objection)


def contradiction(asked: Asked, place_of: PlaceOf) -> Objection | None:
    """Why what a task asks for contradicts itself; None if it does not. Both fields are named."""
    named, preferred = named_provider(asked.model, place_of), asked.preferred_provider
    place = None if named is None else place_of(named)
    preferred_place = None if preferred is None else place_of(preferred)
    if place is None and preferred_place is None and asked.mode is not Mode.CLOUD:
        return None
    sensitive = asked.privacy is Privacy.SENSITIVE
    found = (
        (sensitive and asked.mode is Mode.CLOUD, "mode", "cloud", "`privacy` sensitive"),
        (sensitive and place is Place.CLOUD, "model", "of a cloud provider", "`privacy` sensitive"),
        (sensitive and preferred_place is Place.CLOUD, "preferred_provider", "in the cloud", "`privacy` sensitive"),
        (asked.mode is Mode.LOCAL and place is Place.CLOUD, "model", "of a cloud provider", "`mode` local"),
        (
            asked.mode is Mode.LOCAL and preferred_place is Place.CLOUD,
            "preferred_provider", "in the cloud", "`mode` local",
        ),
        (asked.mode is Mode.CLOUD and place is Place.LOCAL, "model", "of a local provider", "`mode` cloud"),
        (
            asked.mode is Mode.CLOUD and preferred_place is Place.LOCAL,
            "preferred_provider", "that is local", "`mode` cloud",
        ),
        (
            named is not None and preferred_place is not None and preferred != named,
            "preferred_provider", "of one name", "`model`, which names another provider",
        ),
    )  # fmt: skip
    for holds, field, what, other in found:
        if holds:
            return Objection(CONTRADICTION, field, f"`{field}` {what} contradicts {other}: leave one of them out.")
    return None


def named_provider(model: str | None, place_of: PlaceOf) -> str | None:
    """The provider that a model's name begins with. Names may contain slashes, so only a provider's name counts."""
    provider, slash, rest = (model or "").partition("/")
    return provider if slash and rest and place_of(provider) is not None else None


def lowered(party: Party, target: Target, before: Demands, after: Demands) -> tuple[Matter, ...]:
    """What a party must not change in preferences as it wants to: matters that it may not lower, or not change at all.

    `before` and `after` are the demands of the record itself, whatever else is demanded, so that what a party may not
    lower today is not lowered tomorrow by a change elsewhere.
    """

    def allowed(matter: Matter) -> bool:
        right = right_of(party, target, matter)
        old, new = before.of(matter), after.of(matter)
        return (right.lowers or not is_below(new, old)) and (right.raises or not is_below(old, new))

    return tuple(matter for matter in Matter if not allowed(matter))


def may_write(party: Party, target: Target) -> bool:
    """Whether a party may change anything of a target."""
    return any(right_of(party, target, matter).raises for matter in Matter)


def _settled(
    matter: Matter, asked: Asked, floor: Demands, usual: Demands, demands: Mapping[Party, Demands], by: Party
) -> tuple[Level, Objection | None]:
    lowest: Level = Privacy.PUBLIC if matter is Matter.PRIVACY else Mode.CLOUD
    wanted, least = asked.of(matter), floor.of(matter)
    if wanted is None:
        return usual.of(matter) or lowest, None
    right = right_of(by, Target.TASK, matter)
    if is_below(wanted, least) and not right.lowers:
        whose = _whose(matter, least, demands)
        return stricter(wanted, least) or lowest, Objection(
            BELOW_FLOOR,
            matter.value,
            f"{matter} {wanted} is lower than {least}, which {whose} {_demand(whose)}: ask for {least}"
            f"{'' if least in (Privacy.SENSITIVE, Mode.LOCAL) else ' or more'}, or leave {matter} out.",
        )
    if is_below(least, wanted) and not right.raises:
        return stricter(wanted, least) or lowest, Objection(BELOW_FLOOR, matter.value, f"{by} may not set {matter}.")
    return wanted, None


def _in_order(demands: Mapping[Party, Demands], matter: Matter) -> Iterator[tuple[Party, Level]]:
    for party in (Party.TENANT, Party.USER, Party.ROLE):
        demanded = demands.get(party, NOTHING).of(matter)
        if demanded is not None:
            yield party, demanded


def _whose(matter: Matter, level: Level | None, demands: Mapping[Party, Demands]) -> str:
    return next(
        (str(party) for party, demanded in _in_order(demands, matter) if demanded == level),
        "the routing policy's default",
    )


def _demand(whose: str) -> str:
    return "demand" if whose.endswith("s") else "demands"


def _is_demand(level: Level | None) -> bool:
    return level is not None and level not in (Privacy.PUBLIC, Mode.CLOUD)


def _privacy(preferences: Preferences) -> Privacy | None:
    return None if preferences.privacy_level is None else PRIVACY_OF_LEVEL[preferences.privacy_level]


def _consent(preferences: Preferences) -> frozenset[str]:
    preferred = (preferences.preferred_provider,) if preferences.preferred_provider else ()
    return frozenset((*preferences.allowed_providers, *preferred))
