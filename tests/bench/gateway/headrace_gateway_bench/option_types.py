"""Types of command line options, each of which says what is wrong with a value."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection


def whole(text: str) -> int:
    """A number from 1 on."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def seconds(text: str) -> float:
    """A time of less than an hour."""
    number = float(text)
    if not 0 < number < 3600:
        raise argparse.ArgumentTypeError("must be more than 0 and less than 3600")
    return number


def names_of(known: Collection[str]) -> Callable[[str], tuple[str, ...]]:
    """Some of these names, separated by commas, each once."""

    def names(text: str) -> tuple[str, ...]:
        chosen = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
        for name in chosen:
            if name not in known:
                raise argparse.ArgumentTypeError(f"there is no {name!r}; there are {', '.join(known)}")
        return chosen

    return names
