"""X-Headrace-On-Disconnect: whether a task is cancelled when those who wait for it have hung up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from headrace_intake.decide.refusals import bad_request

HEADER: Final = "X-Headrace-On-Disconnect"


class OnDisconnect(StrEnum):
    """What becomes of a task whose caller hangs up before its end."""

    CONTINUE = "continue"
    CANCEL = "cancel"


def parse_on_disconnect(headers: Mapping[str, str]) -> OnDisconnect:
    """What the header says; a task continues by default. Raises Refusal for any other value, and for two of them."""
    said = [value for name, value in headers.items() if name.lower() == HEADER.lower()]
    if not said:
        return OnDisconnect.CONTINUE
    if len(said) > 1:
        raise bad_request(f"The header {HEADER} was sent twice: send it once.", HEADER)
    value = said[0].strip().lower()
    if value not in list(OnDisconnect):
        choices = " or ".join(OnDisconnect)
        raise bad_request(f"The header {HEADER} must be {choices}.", HEADER)
    return OnDisconnect(value)


@dataclass(frozen=True, slots=True)
class Waiters:
    """Those who wait for one task at the same time.

    Attributes:
        open: How many of them still do.
        gave_up: Whether all others have hung up, and had said that the task is to be cancelled then.
    """

    open: int = 0
    gave_up: bool = True


def joined(waiters: Waiters | None) -> Waiters:
    """One more waits."""
    before = waiters or Waiters()
    return Waiters(before.open + 1, before.gave_up)


def left(waiters: Waiters, asked: OnDisconnect, *, hung_up: bool) -> tuple[Waiters | None, bool]:
    """One waits no more. Returns those who still do, None if nobody does, and whether the task is to be cancelled.

    Who was answered, or told where the answer will be, has not given up the task; nor has who said nothing.
    """
    gave_up = waiters.gave_up and hung_up and asked is OnDisconnect.CANCEL
    if waiters.open > 1:
        return Waiters(waiters.open - 1, gave_up), False
    return None, gave_up
