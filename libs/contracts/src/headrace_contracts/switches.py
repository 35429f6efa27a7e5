"""Kill switches: what can be switched off, and the keys of their records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from headrace_contracts.events import SwitchedOff, SwitchKind
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
