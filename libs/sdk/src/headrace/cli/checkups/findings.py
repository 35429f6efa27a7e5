"""What a check of `headrace doctor` returns."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from headrace.addresses import Addresses

START: Final = "start the stack with `headrace up` (or `make up`), or set the variable that names it"
SHOWN: Final = 4
"""How many names a line holds."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of checking one part.

    `unreachable`: no answer. `warning`: it works, and something about it needs attention; `remedy` says what.
    """

    part: str
    ok: bool
    detail: str
    remedy: str = ""
    unreachable: bool = False
    warning: bool = False

    @property
    def well(self) -> bool:
        """Whether there is nothing to do."""
        return self.ok and not self.warning


Checkup = Callable[[Addresses], Awaitable[Sequence[Finding]]]
"""Checks some parts; ends within 10 seconds, or counts as without an answer."""


def wrong(part: str, detail: str, remedy: str) -> Finding:
    """Something does not work, or will lose something."""
    return Finding(part, False, detail, remedy)


def warning(part: str, detail: str, remedy: str) -> Finding:
    """It works, and needs attention."""
    return Finding(part, True, detail, remedy, warning=True)


def unanswered(part: str, detail: str, remedy: str = START) -> Finding:
    """It cannot be reached."""
    return Finding(part, False, detail, remedy, unreachable=True)


def listed(names: Iterable[object], most: int = SHOWN) -> str:
    """The first of some names, and how many there are besides."""
    every = [str(name) for name in names]
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")


def counted(number: int, one: str, many: str = "") -> str:
    """A number with its noun; the plural is `one` with an s by default."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def numbers(of: Iterable[int]) -> str:
    """Partition numbers as ranges, such as `0-2, 5`."""
    ranges: list[list[int]] = []
    for number in sorted(set(of)):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return listed((str(first) if first == last else f"{first}-{last}" for first, last in ranges), 8)
