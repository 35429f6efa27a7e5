"""What a planted bug is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class Patches:
    """Changes of modules and classes, and the way back."""

    def __init__(self) -> None:
        self._before: list[tuple[Any, str, Any]] = []

    def put(self, where: Any, name: str, what: Any) -> Any:
        """Replace an attribute that is there; returns what it was. Raises AttributeError."""
        before = vars(where)[name] if isinstance(where, type) and name in vars(where) else getattr(where, name)
        self._before.append((where, name, before))
        setattr(where, name, what)
        return before

    def put_key(self, where: dict[Any, Any], key: Any, what: Any) -> Any:
        """Replace the value of a key that is there. Raises KeyError."""
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
    """One mistake that somebody might make.

    Attributes:
        what: What goes wrong with it, in words.
        plant: Makes it.
        hint: A seed that has caught it: where the search begins.
    """

    name: str
    what: str
    plant: Callable[[Patches], None]
    hint: int = 1
