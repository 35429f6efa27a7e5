"""Fault injection: the next n calls of a provider fail in a chosen way."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class FaultKind(StrEnum):
    """The way in which a call fails."""

    RATE_LIMIT = "rate_limit"
    """429, with Retry-After where one is given."""
    OVERLOADED = "overloaded"
    """503; 529 at Anthropic."""
    ERROR = "error"
    """500."""
    QUOTA = "quota"
    """No credit left."""
    UNAUTHORISED = "unauthorised"
    MODEL_MISSING = "model_missing"
    BAD_REQUEST = "bad_request"
    REFUSAL = "refusal"
    """The model's safety system declines; on the wire, an ordinary answer."""
    TIMEOUT = "timeout"
    """Does not respond until the caller times out."""
    DISCONNECT = "disconnect"
    """Drops the connection in the middle of the answer."""
    STREAM_ERROR = "stream_error"
    """Reports an error in the middle of the answer."""


@dataclass(frozen=True, slots=True)
class Fault:
    kind: FaultKind
    retry_after_seconds: float | None = None


class FaultPlan:
    """The faults of the next calls, by provider and optionally by node."""

    def __init__(self) -> None:
        self._planned: list[tuple[str, str | None, Fault, int]] = []

    def add(self, provider: str, fault: Fault, count: int, node: str | None = None) -> None:
        """Let `count` more calls of `provider` (only of `node`, if given) fail with `fault`, after those planned."""
        self._planned.append((provider, node, fault, count))

    def clear(self) -> None:
        self._planned.clear()

    def take(self, provider: str, node: str) -> Fault | None:
        """Remove and return the fault of the next call; None if it should succeed."""
        for index, (for_provider, for_node, fault, count) in enumerate(self._planned):
            if for_provider == provider and for_node in (None, node):
                if count <= 1:
                    del self._planned[index]
                else:
                    self._planned[index] = (for_provider, for_node, fault, count - 1)
                return fault
        return None

    def pending(self) -> int:
        """Number of calls that will still fail."""
        return sum(count for *_, count in self._planned)


def parse_fault(text: str) -> tuple[str, Fault, int]:
    """`provider:kind[:count]` as (provider, fault, count).

    Raises ValueError.
    """
    provider, _, rest = text.partition(":")
    kind, _, count = rest.partition(":")
    if not provider or not kind:
        raise ValueError(f"a fault is written provider:kind[:count], not {text!r}")
    return provider, Fault(FaultKind(kind)), int(count) if count else 1
