"""Batch APIs of providers: many calls in one request, answered within hours, at a lower price.

Nothing that such an API says is believed: results may be missing, twice, unknown, or broken, and each call still gets
its answer or a typed failure. A provider's batch is addressed by the id that it gave, which is checked to be one.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterable, AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Protocol

from headrace_models.call import calling, no_limit
from headrace_models.ports import CallUsage, ChatRequest, ChatResult
from headrace_models.upstream.values import Unreadable, document, mapping

LOOK_SECONDS: Final = 30.0
"""For one small request: a look at a batch, its cancellation, a deletion."""
SUBMIT_SECONDS: Final = 120.0
"""For sending all calls of a batch, and for the provider's answer to it."""
READ_SECONDS: Final = 600.0
"""For reading all results of a batch."""
SILENCE_SECONDS: Final = 60.0
"""Between two pieces of them."""
LONGEST_RESULT_BYTES: Final = 16 * 1024 * 1024
"""Of one line of results; a longer one is skipped. An answer of 128,000 tokens is below 1 MB."""
MOST_LISTED: Final = 1_000
"""Batches that are looked through for one that may be ours; the newest come first."""
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}")
_CUSTOM_ID: Final = re.compile(r"hr-([0-9a-f]{32})-(\d{1,6})")


class BatchState(Enum):
    """RUNNING: there may be more results. ENDED: there are all that there will be. GONE: the provider does not know
    the batch."""

    RUNNING = "running"
    ENDED = "ended"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class BatchLook:
    """What a provider says about a batch. `files` hold its results, by the provider's ids, where it has files."""

    state: BatchState
    files: tuple[str, ...] = ()


class ResultKind(Enum):
    """ANSWERED: there is an answer, or the model's refusal. FAILED: the provider's complaint about this call. NOT_RUN:
    the batch ended before this call was made, which costs nothing. BROKEN: it is not the provider's format."""

    ANSWERED = "answered"
    FAILED = "failed"
    NOT_RUN = "not_run"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class ResultLine:
    """One line of results. `said` is the answer's document, or the complaint's; `status` its HTTP status, if any."""

    custom_id: str
    kind: ResultKind
    said: Mapping[str, Any] = field(default_factory=dict, repr=False)
    status: int | None = None


@dataclass(frozen=True, slots=True)
class FoundBatch:
    """What a search for a batch came to.

    Attributes:
        batch_id: The provider's id; None if it was not found.
        unsure: Whether a batch that runs may be ours, which shows only when it has ended.
    """

    batch_id: str | None
    unsure: bool = False


class NotSubmitted(Exception):
    """A batch was certainly not created, for the reason in `__cause__`, a ProviderError."""


class BatchProvider(Protocol):
    """A provider's batch API. Everything raises ProviderError, unless it says otherwise."""

    @property
    def provider(self) -> str:
        """As in the price book."""

    def line_of(self, custom_id: str, request: ChatRequest) -> bytes:
        """One call as the API takes it. Raises TryAnotherProvider if the API has no place for what is asked."""

    async def submit(self, name: str, lines: Sequence[bytes]) -> str:
        """Create a batch, and return the provider's id of it. `name` is ours. Raises NotSubmitted if there is certainly
        none, and ProviderError if there may be one."""

    async def find(self, name: str, count: int, since_ms: int, claimed: Collection[str]) -> FoundBatch:
        """Look for a batch of so many calls that may have been created since a time.

        Args:
            claimed: Ids of batches that are known to be others.
        """

    async def look(self, batch_id: str) -> BatchLook:
        """How far a batch is."""

    async def results(self, batch_id: str, look: BatchLook) -> list[ResultLine]:
        """Its results, in any order, whatever they are."""

    async def answer_of(self, line: ResultLine, request: ChatRequest) -> ChatResult:
        """The answer in a line of results that has one. Raises as `Provider.chat` does."""

    async def cancel(self, batch_id: str) -> None:
        """Ask for its end. It ends some time later."""

    async def clean_up(self, name: str, look: BatchLook | None) -> None:
        """Delete the files that were made for a batch, here and there; what is gone already is no error."""


@dataclass(frozen=True, slots=True)
class _Limits:
    timeout_seconds: float

    @property
    def first_token_seconds(self) -> float:
        return self.timeout_seconds

    @property
    def between_tokens_seconds(self) -> float:
        return self.timeout_seconds


class BatchApiRequest:
    """One request to a batch API, as `calling` wants to know it. It consumes nothing by itself."""

    has_ended: Final = False

    def __init__(self, provider: str, seconds: float) -> None:
        self.provider = provider
        self.request = _Limits(seconds)
        self.accepted = False
        self._extend: Callable[[float], None] = no_limit

    def spent(self) -> CallUsage:
        return CallUsage()


@asynccontextmanager
async def asking(provider: str, seconds: float = LOOK_SECONDS) -> AsyncIterator[BatchApiRequest]:
    """One request, within a time, whose errors are ours."""
    request = BatchApiRequest(provider, seconds)
    async with calling(request):
        yield request


def batch_id_of(value: object) -> str:
    """An id that a provider gave. Raises Unreadable unless it can be one: it becomes part of a path."""
    if isinstance(value, str) and _ID.fullmatch(value):
        return value
    raise Unreadable("it names no id")


def custom_id(name: str, number: int) -> str:
    """The id of a call in a batch; `name` is that of the batch, 32 hexadecimal digits."""
    return f"hr-{name}-{number}"


def number_of(said: str, name: str) -> int | None:
    """The number of a call in the batch of this name; None if the id is not one of its ids."""
    match = _CUSTOM_ID.fullmatch(said)
    return int(match[2]) if match is not None and match[1] == name else None


def json_line(value: object) -> bytes:
    """A document in one line, without its end. Raises ValueError for what JSON has no form for."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8", "replace")


async def result_lines(pieces: AsyncIterable[bytes]) -> AsyncIterator[Mapping[str, Any] | None]:
    """The documents in lines of JSON; None stands for a line that is too long, or no JSON object.

    Memory is bounded by LONGEST_RESULT_BYTES, and the work is linear in what is received.
    """
    pending: list[bytes] = []
    size, skipping = 0, False
    async for piece in pieces:
        *ended, rest = piece.split(b"\n")
        for part in ended:
            pending.append(part)
            line = b"".join(pending)
            too_long = skipping or len(line) > LONGEST_RESULT_BYTES
            pending, size, skipping = [], 0, False
            if too_long:
                yield None
            elif line.strip():
                yield _document(line)
        if not skipping:
            pending.append(rest)
            size += len(rest)
            if size > LONGEST_RESULT_BYTES:
                pending, skipping = [], True
    if skipping:
        yield None
    elif (line := b"".join(pending)).strip():
        yield _document(line)


def _document(line: bytes) -> Mapping[str, Any] | None:
    try:
        return mapping(document(line.decode("utf-8", "replace"))) or None
    except Unreadable:
        return None
