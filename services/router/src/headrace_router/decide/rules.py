"""The rules a task runs under: privacy, mode, providers. Where two levels meet, the stricter wins."""

from __future__ import annotations

from dataclasses import dataclass

from headrace_contracts.events import Mode, Place, Preferences, Privacy, PrivacyLevel, TaskSubmitted

from headrace_router.decide.policy import Policy, RolePolicy

_STRICTNESS = {Privacy.PUBLIC: 0, Privacy.INTERNAL: 1, Privacy.SENSITIVE: 2}
_OF_LEVEL = {
    PrivacyLevel.HIGH: Privacy.SENSITIVE,
    PrivacyLevel.STANDARD: Privacy.INTERNAL,
    PrivacyLevel.LOW: Privacy.PUBLIC,
}


@dataclass(frozen=True, slots=True)
class TaskRules:
    """The rules that apply to one task.

    Attributes:
        privacy: How far its content may travel.
        mode: Where it runs; local for sensitive content, whatever was requested.
        consented: Providers that internal content may go to.
        preferred: Provider to try first.
    """

    privacy: Privacy
    mode: Mode
    consented: frozenset[str]
    preferred: str | None

    def objection(self, provider: str, place: Place) -> tuple[str, str] | None:
        """Why a provider must not get this task, as a stable code and in words; None if it may."""
        if place is Place.CLOUD and self.privacy is Privacy.SENSITIVE:
            return "privacy", "sensitive content never leaves local nodes"
        if place is Place.CLOUD and self.mode is Mode.LOCAL:
            return "mode", "the mode is local"
        if place is Place.LOCAL and self.mode is Mode.CLOUD:
            return "mode", "the mode is cloud"
        if place is Place.CLOUD and self.privacy is Privacy.INTERNAL and provider not in self.consented:
            return "no_consent", "internal content goes only to providers named in the preferences"
        return None

    def reason(self, place: Place) -> str:
        """Why a provider that may get this task may get it."""
        if place is Place.LOCAL:
            return f"{self.privacy} content, on local nodes"
        if self.privacy is Privacy.INTERNAL:
            return "internal content, provider named in the preferences"
        return f"{self.privacy} content"


def strictest(*levels: Privacy) -> Privacy:
    return max(levels, key=_STRICTNESS.__getitem__)


def rules_for(
    task: TaskSubmitted,
    role: RolePolicy | None,
    policy: Policy,
    user: Preferences | None,
    tenant: Preferences | None,
    floor: Privacy | None = None,
) -> TaskRules:
    """The rules for a task.

    The level named by the task applies, even above or below that of its role and the preferences; without one the
    strictest of those applies. Two things are never lowered: a role that always runs locally, and `floor`, the level
    under which the task has run so far. The user's preferences override the tenant's, field by field.
    """
    stated = [preferences for preferences in (user, tenant) if preferences is not None]
    level = next((p.privacy_level for p in stated if p.privacy_level is not None), policy.defaults.privacy_level)
    if task.privacy is not None:
        privacy = task.privacy
    else:
        privacy = strictest(_OF_LEVEL[level], *((role.privacy,) if role is not None and role.privacy else ()))
    if role is not None and role.always_local:
        privacy = Privacy.SENSITIVE
    if floor is not None:
        privacy = strictest(privacy, floor)
    mode = task.mode or next((p.ai_mode for p in stated if p.ai_mode is not None), policy.defaults.mode)
    if privacy is Privacy.SENSITIVE:
        mode = Mode.LOCAL
    requested = next((p.preferred_provider for p in stated if p.preferred_provider), None)
    consented = set(next((p.allowed_providers for p in stated if p.allowed_providers), ()))
    # To prefer a provider in the preferences is to consent to it. A task's own preferred provider is no consent,
    # since whatever submits tasks cannot give it.
    if requested is not None:
        consented.add(requested)
    return TaskRules(privacy, mode, frozenset(consented), task.preferred_provider or requested)
