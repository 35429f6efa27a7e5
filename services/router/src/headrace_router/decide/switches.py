"""Kill switches that are off now. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from headrace_contracts.events import Failure, Place, SwitchedOff, SwitchKind

SWITCHED_OFF: Final = "switched_off"
TENANT_SWITCHED_OFF: Final = "tenant_switched_off"

_Key = tuple[SwitchKind, str]


@dataclass(frozen=True, slots=True)
class Switches:
    """All that is switched off, by kind and name; what has a time from which it is on again counts until then."""

    off: Mapping[_Key, SwitchedOff] = field(default_factory=dict)

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
        found = self.off.get(name)
        if found is None or (found.until is not None and now >= found.until):
            return None
        return f"{name[0].value} {name[1]} is switched off" + (f": {found.reason}" if found.reason else "")


ALL_ON: Final = Switches()
