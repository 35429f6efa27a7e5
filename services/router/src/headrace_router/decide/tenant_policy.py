"""What a tenant makes of the installation's policy: it may narrow it, never widen it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from headrace_contracts.events import Lane, Mode, Privacy, PrivacyLevel
from headrace_contracts.floors import PRIVACY_OF_LEVEL, is_below
from headrace_contracts.narrowing import Strategy
from pydantic import BaseModel, ConfigDict, Field

from headrace_router.decide.policy import DataRules, ModelRef, Policy, Ref, RolePolicy

_T = TypeVar("_T")

_MODES = (Mode.CLOUD, Mode.HYBRID, Mode.LOCAL)
"""The later, the stricter."""


class _Narrowing(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RoleNarrowing(_Narrowing):
    """What a tenant says of a role.

    Attributes:
        models, ladder: Those of the installation's that are left, in the tenant's order.
        privacy: Lowest level of its tasks; not below the installation's.
        always_local: Its tasks never leave local nodes.
        system_prompt: Instead of the installation's.
        lane: Lane of tasks that do not name one.
        strategy: How its models are put in order.
    """

    models: tuple[Ref, ...] | None = Field(default=None, min_length=1)
    ladder: tuple[Ref, ...] | None = None
    privacy: Privacy | None = None
    always_local: bool | None = None
    system_prompt: str | None = None
    lane: Lane | None = None
    strategy: Strategy | None = None


class DefaultsNarrowing(_Narrowing):
    """What applies if neither the task, nor its role, nor the preferences specify it."""

    role: str | None = None
    lane: Lane | None = None
    mode: Mode | None = None
    privacy_level: PrivacyLevel | None = None


class TenantPolicy(_Narrowing):
    """What one tenant narrows.

    Attributes:
        strategy: How candidates are put in order.
        data: What providers must fulfil, besides what the installation demands.
        longest_deadline: Cap on deadlines, in milliseconds.
        max_output_tokens: Longest answer of a cloud model if the task names none.
    """

    defaults: DefaultsNarrowing = DefaultsNarrowing()
    roles: dict[str, RoleNarrowing] = {}
    ladder: tuple[Ref, ...] | None = None
    strategy: Strategy | None = None
    data: DataRules = DataRules()
    longest_deadline: int | None = Field(default=None, gt=0)
    max_output_tokens: int | None = Field(default=None, gt=0)


@dataclass(slots=True)
class _InstallationBounds:
    problems: list[str] = field(default_factory=list)

    def within(
        self, path: str, asked: _T | None, bound: _T, exceeds: Callable[[_T], bool], must_be: Callable[[_T], str]
    ) -> _T:
        if asked is None:
            return bound
        if exceeds(asked):
            self.problems.append(f"{path}: {must_be(asked)}")
            return bound
        return asked

    def subset(self, path: str, asked: Sequence[Any] | None, allowed: Sequence[Any]) -> tuple[Any, ...]:
        if asked is None:
            return tuple(allowed)
        for index, ref in enumerate(asked):
            if ref not in allowed:
                self.problems.append(
                    f"{path}.{index}: {ref.provider}/{ref.model} is not in the installation's list there"
                )
        return tuple(ref for ref in asked if ref in allowed)


def narrowed(policy: Policy, tenant: TenantPolicy) -> tuple[Policy, tuple[str, ...]]:
    """The policy of a tenant, and what it has said that goes beyond the installation's and is therefore not in it.

    Nothing that a tenant says makes more possible: of a list of models what both have is left, which may be nothing.
    """
    bounds = _InstallationBounds()
    roles = dict(policy.roles)
    for name, said in tenant.roles.items():
        role = policy.roles.get(name)
        if role is None:
            bounds.problems.append(f"roles.{name}: the installation's policy has no such role")
            continue
        roles[name] = _narrowed_role(f"roles.{name}", role, said, policy, bounds)
    given = tenant.defaults
    if given.role is not None and given.role not in policy.roles:
        bounds.problems.append(f"defaults.role: there is no role {given.role!r}")
    defaults = policy.defaults.model_copy(
        update={
            "role": given.role if given.role in policy.roles else policy.defaults.role,
            "lane": given.lane or policy.defaults.lane,
            "mode": bounds.within(
                "defaults.mode", given.mode, policy.defaults.mode,
                lambda mode: _MODES.index(mode) < _MODES.index(policy.defaults.mode),
                lambda mode: f"{mode} is less strict than the installation's {policy.defaults.mode}",
            ),
            "privacy_level": bounds.within(
                "defaults.privacy_level", given.privacy_level, policy.defaults.privacy_level,
                lambda level: is_below(PRIVACY_OF_LEVEL[level], PRIVACY_OF_LEVEL[policy.defaults.privacy_level]),
                lambda level: f"{level} is less strict than the installation's {policy.defaults.privacy_level}",
            ),
        }
    )  # fmt: skip
    longest, tokens = policy.deadlines.longest, policy.attempts.max_output_tokens
    deadlines = policy.deadlines.model_copy(
        update={
            "longest": bounds.within(
                "longest_deadline", tenant.longest_deadline, longest,
                lambda ms: ms > longest, lambda ms: f"{ms} ms is longer than the installation's {longest}",
            )
        }
    )  # fmt: skip
    attempts = policy.attempts.model_copy(
        update={
            "max_output_tokens": bounds.within(
                "max_output_tokens", tenant.max_output_tokens, tokens,
                lambda most: most > tokens, lambda most: f"{most} is more than the installation's {tokens}",
            )
        }
    )  # fmt: skip
    ladder = bounds.subset("ladder", tenant.ladder, policy.ladder)
    for name, role in roles.items():
        before = policy.roles[name]
        gone = {*before.models, *_ladder_of(before, policy.ladder)} - {*role.models, *_ladder_of(role, ladder)}
        if gone:
            roles[name] = role.without(frozenset(gone))
    made = _changed(
        policy,
        {
            "defaults": defaults,
            "deadlines": deadlines,
            "attempts": attempts,
            "roles": roles,
            "strategy": tenant.strategy or policy.strategy,
            "data": policy.data.and_also(tenant.data),
            "ladder": ladder,
        },
    )
    return made, tuple(bounds.problems)


def _ladder_of(role: RolePolicy, of_policy: tuple[ModelRef, ...]) -> tuple[ModelRef, ...]:
    return of_policy if role.ladder is None else role.ladder


def _changed(policy: Policy, fields: dict[str, Any]) -> Policy:
    changed = policy.model_copy(update=fields)
    # The version of the original has been kept in it, and a copy takes it along.
    changed.__dict__.pop("version", None)
    return changed


def _narrowed_role(
    path: str, role: RolePolicy, said: RoleNarrowing, policy: Policy, bounds: _InstallationBounds
) -> RolePolicy:
    ladder = policy.ladder if role.ladder is None else role.ladder
    weakest = Privacy.PUBLIC if role.privacy is None else role.privacy
    if said.always_local is False and role.always_local:
        bounds.problems.append(f"{path}.always_local: the installation's policy says true")
    return role.model_copy(
        update={
            "models": bounds.subset(f"{path}.models", said.models, role.models),
            "ladder": role.ladder if said.ladder is None else bounds.subset(f"{path}.ladder", said.ladder, ladder),
            "privacy": role.privacy if said.privacy is None else bounds.within(
                f"{path}.privacy", said.privacy, weakest, lambda level: is_below(level, weakest),
                lambda level: f"{level} is less strict than the installation's {weakest}",
            ),
            "always_local": role.always_local or bool(said.always_local),
            "system_prompt": role.system_prompt if said.system_prompt is None else said.system_prompt,
            "lane": said.lane or role.lane,
            "strategy": said.strategy or role.strategy,
        }
    )  # fmt: skip
