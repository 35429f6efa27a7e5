"""From a provider's results to the outcomes of attempts. Each attempt has one, whatever the results are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from headrace_models.batch_calls import BatchProvider, ResultKind, ResultLine, number_of
from headrace_models.errors import ProviderError, RetrySameProvider
from headrace_models.ports import ChatRequest, ChatResult, Provider
from headrace_models.structured import checked
from headrace_models.upstream.complaints import complaint_in, error_of
from headrace_models.worker import outcomes
from headrace_models.worker.outcomes import ExecutionOutcome

_BEST: Final = (ResultKind.ANSWERED, ResultKind.FAILED, ResultKind.NOT_RUN, ResultKind.BROKEN)


@dataclass(frozen=True, slots=True)
class SortedResults:
    """The results of a batch by the numbers of its calls.

    Attributes:
        of: One for each call that has any.
        strange: Lines that are of no call, cannot be read, or come a second time.
    """

    of: Mapping[int, ResultLine]
    strange: int


def sort_results(lines: Iterable[ResultLine], name: str, count: int) -> SortedResults:
    """Which result is whose. Of several for one call an answer counts before a failure, and the first of its kind."""
    of: dict[int, ResultLine] = {}
    strange = 0
    for line in lines:
        number = number_of(line.custom_id, name)
        if number is None or number >= count:
            strange += 1
            continue
        known = of.get(number)
        if known is not None:
            strange += 1
        if known is None or _BEST.index(line.kind) < _BEST.index(known.kind):
            of[number] = line
    return SortedResults(of, strange)


def unsettled(numbers: Sequence[int], results: SortedResults) -> list[int]:
    """Calls that were not made, or whose result cannot be read: they are made once more, one by one."""
    lasting = (ResultKind.ANSWERED, ResultKind.FAILED)
    return [number for number in numbers if (line := results.of.get(number)) is None or line.kind not in lasting]


async def outcome_of(
    line: ResultLine, call: ChatRequest, batches: BatchProvider, provider: Provider, *, now_ms: int,
    deadline_at: int | None,
) -> ExecutionOutcome:  # fmt: skip
    """The outcome of an attempt with a result. Times of its model are not known."""
    told: ChatResult | ProviderError
    try:
        if line.kind is ResultKind.ANSWERED:
            told = checked(provider, call, await batches.answer_of(line, call))
        else:
            complaint = complaint_in(line.said, status=line.status)
            if complaint is None:
                message = f"{batches.provider} failed in a batch, and does not say why"
                raise RetrySameProvider("provider_error", message, provider=batches.provider)
            raise error_of(complaint, provider=batches.provider)
    except ProviderError as error:
        ended = outcomes.from_error(error, model_ms=0.0, now_ms=now_ms, deadline_at=deadline_at)
        # The call was made, whatever its failure is called.
        return replace(ended, asked=True, model_ms=0.0)
    return replace(outcomes.from_result(told), first_output_ms=None, model_ms=0.0)


def dropped(ended: ExecutionOutcome) -> ExecutionOutcome:
    """The outcome of an attempt whose task was cancelled meanwhile: its result counts for nothing, its usage counts."""
    cancelled = outcomes.cancelled(usage=ended.usage)
    return replace(cancelled, simulated=ended.simulated, model=ended.model)
