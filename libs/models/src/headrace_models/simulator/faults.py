"""Fault injection: the next n calls of a provider fail in a chosen way."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple


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
    SILENCE = "silence"
    """Says nothing more after the first piece of the answer, and keeps the connection open."""
    KEEP_ALIVES = "keep_alives"
    """Begins to answer, and then sends keep-alives only."""
    UNFINISHED = "unfinished"
    """Closes the connection in order after the whole text, without the end that its format demands."""
    BROKEN_JSON = "broken_json"
    """Sends half a JSON document in the middle of the answer."""
    JSON_BODY = "json_body"
    """Sends one JSON document where a stream was asked for."""
    TORN_CHARACTER = "torn_character"
    """Sends the two UTF-16 halves of a character in two pieces."""
    TORN_BYTES = "torn_bytes"
    """Sends the UTF-8 bytes of a character in two chunks of the body."""
    EMPTY_ANSWER = "empty_answer"
    THINKING_ONLY = "thinking_only"
    """Thinks, and then says nothing."""
    THINKING_TO_THE_END = "thinking_to_the_end"
    """Thinks until its limit of tokens, and says so."""
    REPEATED_TOKEN = "repeated_token"
    """Says the same again and again until the server ends the answer in order, without the end of its format: as
    Ollama does after 30 times."""
    UNKNOWN_FINISH = "unknown_finish"
    """Names a reason for the end that no documentation has."""
    NULL_COUNTS = "null_counts"
    NEGATIVE_COUNTS = "negative_counts"
    NAN_COUNTS = "nan_counts"
    """NaN, which is not even JSON."""
    VAST_COUNTS = "vast_counts"
    """1e30 tokens."""
    LARGE_COUNTS = "large_counts"
    """2 to the 70th, which no field of ours could hold."""
    NUMBER_AS_MODEL = "number_as_model"
    HALF_CHARACTER_AS_MODEL = "half_character_as_model"
    REDIRECT = "redirect"
    """307 to another path, where all that arrives is recorded."""
    REDIRECT_AWAY = "redirect_away"
    """The same, to another origin."""
    ANSWERED_REMOTELY = "answered_remotely"
    """Of Ollama only: the node passes the call on to another host, which its list of models does not say."""
    VECTOR_MISSING = "vector_missing"
    """Of embeddings only, as the following: there is one vector less than texts."""
    VECTOR_NOT_A_NUMBER = "vector_not_a_number"
    """NaN in a vector."""
    VECTOR_SHORT = "vector_short"
    """One vector is shorter than the others."""
    VECTORS_EMPTY = "vectors_empty"
    """Vectors without numbers."""


OF_VECTORS: Final = frozenset(
    {FaultKind.VECTOR_MISSING, FaultKind.VECTOR_NOT_A_NUMBER, FaultKind.VECTOR_SHORT, FaultKind.VECTORS_EMPTY}
)


@dataclass(frozen=True, slots=True)
class Fault:
    kind: FaultKind
    retry_after_seconds: float | None = None


class _Planned(NamedTuple):
    provider: str
    node: str | None
    model: str | None
    fault: Fault
    calls: int


class FaultPlan:
    """The faults of the next calls, by provider and optionally by node and model."""

    def __init__(self) -> None:
        self._planned: list[_Planned] = []
        self.taken: Counter[tuple[str, FaultKind]] = Counter()
        """Faults that calls have met, by provider and kind."""

    def add(self, provider: str, fault: Fault, count: int, node: str | None = None, model: str | None = None) -> None:
        """Let `count` more calls of `provider` (only of `node` and `model`, if given) fail, after those planned.

        Raises ValueError for a fault that the provider cannot have.
        """
        if fault.kind is FaultKind.ANSWERED_REMOTELY and provider != "ollama":
            raise ValueError(f"{fault.kind} is a fault of ollama only")
        self._planned.append(_Planned(provider, node, model, fault, count))

    def clear(self) -> None:
        self._planned.clear()

    def take(self, provider: str, node: str, model: str = "") -> Fault | None:
        """Remove and return the fault of the next call; None if it should succeed."""
        for index, planned in enumerate(self._planned):
            if planned.provider == provider and planned.node in (None, node) and planned.model in (None, model):
                if planned.calls <= 1:
                    del self._planned[index]
                else:
                    self._planned[index] = planned._replace(calls=planned.calls - 1)
                self.taken[provider, planned.fault.kind] += 1
                return planned.fault
        return None

    def pending(self) -> int:
        """Number of calls that will still fail."""
        return sum(planned.calls for planned in self._planned)


def parse_fault(text: str) -> tuple[str, Fault, int]:
    """`provider:kind[:count]` as (provider, fault, count).

    Raises ValueError.
    """
    provider, _, rest = text.partition(":")
    kind, _, count = rest.partition(":")
    if not provider or not kind:
        raise ValueError(f"a fault is written provider:kind[:count], not {text!r}")
    return provider, Fault(FaultKind(kind)), int(count) if count else 1
