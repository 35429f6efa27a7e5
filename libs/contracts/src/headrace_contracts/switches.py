"""Kill switches: what can be switched off, the keys of their records, and what those that are off rule out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from headrace_contracts.events import Failure, Place, SwitchedOff, SwitchKind
from headrace_contracts.limits import is_name, is_tenant

FEATURES: Final[Mapping[str, str]] = {
    "cache": "answers from the cache",
    "coalescing": "one answer for equal tasks in flight",
    "cloud": "calls of all cloud providers",
}
"""Features of the router that can be switched off, and what each does."""


class SwitchInvalid(ValueError):
    """Name a switch that exists: the message says what is wrong with this one."""


def switch_of(text: str) -> tuple[SwitchKind, str]:
    """The kind and name that a key like `provider/groq` stands for. Raises SwitchInvalid."""
    kind_text, slash, name = text.partition("/")
    kinds = [kind.value for kind in SwitchKind if kind is not SwitchKind.UNKNOWN]
    if not slash or kind_text not in kinds:
        raise SwitchInvalid(f"{text!r} is not a switch: write {', '.join(f'{kind}/NAME' for kind in kinds)}")
    kind = SwitchKind(kind_text)
    if kind is SwitchKind.FEATURE and name not in FEATURES:
        raise SwitchInvalid(f"there is no feature {name!r}; there are {', '.join(FEATURES)}")
    if kind is SwitchKind.TENANT and not is_tenant(name):
        raise SwitchInvalid(f"{name!r} cannot be a tenant")
    if not is_name(name):
        raise SwitchInvalid(f"{name!r} cannot be the name of a {kind.value}")
    return kind, name


def switch_key(off: SwitchedOff) -> str:
    """Key of the record."""
    return f"{off.kind.value}/{off.name}"


SWITCHED_OFF: Final = "switched_off"
TENANT_SWITCHED_OFF: Final = "tenant_switched_off"

_Key = tuple[SwitchKind, str]


@dataclass(frozen=True, slots=True)
class Switches:
    """All that is switched off, by kind and name; what has a time from which it is on again counts until then."""

    off: Mapping[_Key, SwitchedOff] = field(default_factory=dict)

    def with_record(self, key: str, off: SwitchedOff | None) -> Switches:
        """These after a record of the topic; None when what the key names is on again. A record whose key is not its
        own, or whose kind is of a newer release, switches nothing off."""
        if off is not None and switch_key(off) != key:
            return self
        remaining = {which: each for which, each in self.off.items() if switch_key(each) != key}
        if off is not None and off.kind is not SwitchKind.UNKNOWN:
            remaining[off.kind, off.name] = off
        return Switches(remaining)

    def against(self, provider: str, model: str, place: Place, now: int) -> str | None:
        """Why a model of a provider must not be called, in words; None if it may. `now` in milliseconds."""
        if not self.off:
            return None
        names: list[_Key] = [
            (SwitchKind.PROVIDER, provider),
            (SwitchKind.MODEL, model),
            (SwitchKind.MODEL, f"{provider}/{model}"),
        ]
        if place is not Place.LOCAL:
            names.append((SwitchKind.FEATURE, "cloud"))
        return next((words for name in names if (words := self._words(name, now)) is not None), None)

    def against_tenant(self, tenant: str, now: int) -> Failure | None:
        """Why no task of a tenant may run."""
        words = self._words((SwitchKind.TENANT, tenant), now)
        return None if words is None else Failure(code=TENANT_SWITCHED_OFF, message=words)

    def has(self, feature: str, now: int) -> bool:
        """Whether a feature is to be used."""
        return self._words((SwitchKind.FEATURE, feature), now) is None

    def next_end(self, now: int) -> int | None:
        """When the next switch is on again by itself, in milliseconds since the epoch."""
        return min((off.until for off in self.off.values() if off.until is not None and off.until > now), default=None)

    def _words(self, name: _Key, now: int) -> str | None:
        if not self.off:
            return None
        found = self.off.get(name)
        if found is None or (found.until is not None and now >= found.until):
            return None
        return f"{name[0].value} {name[1]} is switched off" + (f": {found.reason}" if found.reason else "")


ALL_ON: Final = Switches()
