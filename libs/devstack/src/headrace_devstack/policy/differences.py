"""What differs between two policies, value by value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel


@dataclass(frozen=True, slots=True)
class Difference:
    """One value that differs; `before` or `after` is None where it is not there."""

    path: str
    before: str | None
    after: str | None


def differences(before: BaseModel, after: BaseModel) -> tuple[Difference, ...]:
    """All values that differ, in the order of the newer policy, then those that are no longer there."""
    old, new = _values(before), _values(after)
    paths = [*new, *(path for path in old if path not in new)]
    return tuple(Difference(path, old.get(path), new.get(path)) for path in paths if old.get(path) != new.get(path))


def _values(policy: BaseModel) -> Mapping[str, str]:
    return dict(_flat("", policy.model_dump(mode="json")))


def _flat(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and set(value) == {"provider", "model"}:
        yield path, f"{value['provider']}/{value['model']}"
    elif isinstance(value, dict) and value:
        for name, inside in value.items():
            yield from _flat(f"{path}.{name}" if path else str(name), inside)
    elif isinstance(value, list):
        # The order of a list means something: it is compared as a whole.
        yield path, ", ".join(text for item in value for _, text in _flat(path, item)) or "(none)"
    elif value is not None and value != {}:
        yield path, str(value)
