"""Definition of a planted bug."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class Patches:
    """Changes to modules and classes, which can be undone."""

    def __init__(self) -> None:
        self._before: list[tuple[Any, str, Any]] = []

    def put(self, where: Any, name: str, what: Any) -> Any:
        """Replace an existing attribute; returns the old value. Raises AttributeError."""
        before = vars(where)[name] if isinstance(where, type) and name in vars(where) else getattr(where, name)
        self._before.append((where, name, before))
        setattr(where, name, what)
        return before

    def put_key(self, where: dict[Any, Any], key: Any, what: Any) -> Any:
        """Replace the value of an existing key. Raises KeyError."""
        before = where[key]
        self._before.append((where, "", (key, before)))
        where[key] = what
        return before

    def undo(self) -> None:
        for where, name, before in reversed(self._before):
            if isinstance(where, dict):
                where[before[0]] = before[1]
            else:
                setattr(where, name, before)


@dataclass(frozen=True, slots=True)
class Bug:
    """One plausible mistake.

    Attributes:
        what: What goes wrong with it, in words.
        plant: Plants it.
        hint: A seed that has caught it, tried first.
    """

    name: str
    what: str
    plant: Callable[[Patches], None]
    hint: int = 1
