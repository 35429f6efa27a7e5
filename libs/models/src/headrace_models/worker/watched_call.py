"""Running calls that are given up when nothing more can be expected of their endpoint, or others need their slots.

A server whose process is stopped, or whose machine has lost its network, closes no connection: what it was asked would
wait for the limits of a call, which are long since models may take long. Probes notice within seconds. They do not
notice that only the inference stands still, while the server goes on answering: then no call hears anything any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Literal

GONE_AFTER_PROBES: Final = 2
"""Probes in a row that did not reach an endpoint, each after some seconds, until it counts as gone."""
SILENT_SECONDS: Final = 5.0
"""A call from which something has come more recently goes on, whatever the probes say."""
_STILL_SECONDS: Final = 20.0
"""However soon a model usually begins to answer, an endpoint may say nothing for so long."""
_USUAL_TIMES: Final = 10
"""How many times as long as nine of ten calls take to their first token it may be."""
_UNKNOWN_SECONDS: Final = 6.0
"""Assumed for a model in memory that has not answered yet, or an endpoint that never did would not be found out."""
_PROMPT_TOKEN_SECONDS: Final = 0.05
"""Time for each token of the longest prompt: a slow processor reads 20 to 50 a second."""

Lost = Literal["gone", "still", "displaced"]
"""Its endpoint cannot be reached; it can, and its inference stands still; its slot is for an interactive call."""


class WatchedCall:
    """One call, in the asyncio task that makes it.

    Args:
        limit: Expires when the call is given up.
        prompt_tokens: Of its prompt, as estimated.
        may_be_displaced: Whether an interactive call may have its slot.

    Attributes:
        began_at: When it began, by the loop's clock.
        lost: Why it was given up; None if it was not.
    """

    __slots__ = ("_heard_at", "_limit", "_now", "began_at", "lost", "may_be_displaced", "model", "prompt_tokens")

    def __init__(
        self, model: str, prompt_tokens: int, limit: asyncio.Timeout, *, may_be_displaced: bool = False
    ) -> None:
        self._limit = limit
        self._now = asyncio.get_running_loop().time
        self._heard_at = self.began_at = self._now()
        self.may_be_displaced = may_be_displaced
        self.model = model
        self.prompt_tokens = prompt_tokens
        self.lost: Lost | None = None

    def heard(self) -> None:
        """Something has come from the endpoint."""
        self._heard_at = self._now()

    def give_up(self, why: Lost, silent_seconds: float = 0.0) -> None:
        """End the call, unless something has come from it within so many seconds."""
        now = self._now()
        if now - self._heard_at >= silent_seconds and not self._limit.expired():
            self.lost = why
            self._limit.reschedule(now)


class WatchedCalls:
    """The running calls of one endpoint. Times are seconds of the loop's clock."""

    def __init__(self) -> None:
        # A dict, for its order: the oldest one is given up, and made elsewhere, first.
        self._calls: dict[WatchedCall, None] = {}
        self._missed_probes = 0
        # Since when no call has heard anything, while there were some.
        self._silent_since = 0.0

    def displaceable(self, model: str | None) -> list[WatchedCall]:
        """The calls of a model, or of any, whose slots interactive calls may have, in the order in which they began."""
        found = [one for one in self._calls if one.may_be_displaced and one.lost is None and model in (None, one.model)]
        return sorted(found, key=lambda one: one.began_at)

    def add(self, call: WatchedCall, now: float) -> None:
        """A call begins."""
        if not self._calls:
            self._silent_since = now
        self._calls[call] = None

    def remove(self, call: WatchedCall, now: float) -> None:
        """A call has ended: its endpoint has said something, or it was given up."""
        del self._calls[call]
        if call.lost is None:
            self._silent_since = now

    def heard(self, call: WatchedCall, now: float) -> None:
        """Something has come for a call."""
        call.heard()
        self._silent_since = now

    def probed(
        self, now: float, *, unreachable: bool, is_loaded: Callable[[str], bool], usual_seconds: Callable[[str], float]
    ) -> None:
        """Give up calls of which, after one more probe, nothing can be expected.

        Args:
            is_loaded: Whether the endpoint has a model in its memory: loading takes what it takes.
            usual_seconds: Within which time nine of ten calls of a model had their first token; 0 while not known.
        """
        self._missed_probes = self._missed_probes + 1 if unreachable else 0
        if self._missed_probes >= GONE_AFTER_PROBES:
            for call in self._calls:
                call.give_up("gone", SILENT_SECONDS)
        elif not unreachable and self._stands_still(now, is_loaded, usual_seconds):
            for call in self._calls:
                call.give_up("still")

    def _stands_still(
        self, now: float, is_loaded: Callable[[str], bool], usual_seconds: Callable[[str], float]
    ) -> bool:
        if not self._calls or now - self._silent_since < _STILL_SECONDS:
            return False
        models = {call.model for call in self._calls}
        if not all(map(is_loaded, models)):
            return False
        usual = [usual_seconds(model) or _UNKNOWN_SECONDS for model in models]
        reading = _PROMPT_TOKEN_SECONDS * max(call.prompt_tokens for call in self._calls)
        return now - self._silent_since >= max(_STILL_SECONDS, _USUAL_TIMES * max(usual)) + reading
