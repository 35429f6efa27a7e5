"""Which attempts are tries, and the backoff before the next one.

An attempt is a try if a model was asked, or may have been. One of which it is known that nobody was asked leaves the
task's limits of tries as they are, and so may be repeated until the deadline. What is held of such attempts must not
grow meanwhile: of each model, only the newest stay in the state, as many as it may have tries, and the newest of each
site.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from headrace_contracts.events import AttemptState, MemberState, SearchState, TaskPhase, TaskState, TrailStep
from headrace_contracts.frozen import changed

from headrace_router.decide.policy import Retry

NOT_ASKED = "not_asked"
"""The step of a trail that stands for an attempt that asked nobody, in place of its dispatch."""


def backoff(task_id: str, number: int, tries: int, retry: Retry) -> int:
    """Milliseconds before the attempt after attempt `number`, the `tries`th at its model.

    Doubles from `base` up to `cap`, with jitter between half of that and the whole, so that tasks that failed together
    do not retry together. The jitter follows from the ids: the same decision made again gives the same delay.
    """
    full = min(retry.cap, retry.base << min(tries - 1, 30))
    seed = hashlib.blake2b(f"{task_id}/{number}".encode(), digest_size=4).digest()
    share = int.from_bytes(seed, "big") / 0xFFFFFFFF
    return round(full * (0.5 + share / 2))


def tries(attempts: Iterable[AttemptState], provider: str | None = None, model: str | None = None) -> int:
    """How many attempts asked a model, or may have: this one, or any."""
    return sum(
        attempt.asked and (provider is None or (attempt.provider, attempt.model) == (provider, model))
        for attempt in attempts
    )


def unasked(attempts: Iterable[AttemptState]) -> Mapping[tuple[str, str], Sequence[int]]:
    """By provider and model the numbers of the attempts that asked nobody, as far as they are held."""
    found: dict[tuple[str, str], list[int]] = {}
    for attempt in attempts:
        if not attempt.asked:
            found.setdefault((attempt.provider, attempt.model), []).append(attempt.number)
    return found


def search_attempts(state: TaskState) -> tuple[AttemptState, ...]:
    """The attempts at the searches of a task, in no order."""
    if state.research is None:
        return ()
    return tuple([attempt for search in state.research.searches for attempt in search.attempts])


def search_of(state: TaskState, number: int) -> SearchState | None:
    """The search of whose attempts one has a number."""
    searches = () if state.research is None else state.research.searches
    return next((one for one in searches if any(attempt.number == number for attempt in one.attempts)), None)


def panel_attempts(state: TaskState) -> tuple[AttemptState, ...]:
    """The attempts of all models that work on a task together, in no order."""
    if state.panel is None:
        return ()
    return tuple([attempt for member in state.panel.members for attempt in member.attempts])


def member_of(state: TaskState, number: int) -> MemberState | None:
    """The one of several models of whose attempts one has a number."""
    members = () if state.panel is None else state.panel.members
    return next((one for one in members if any(attempt.number == number for attempt in one.attempts)), None)


def all_attempts(state: TaskState) -> tuple[AttemptState, ...]:
    """The attempts at the searches of a task and those at its answer, as far as they are held."""
    return (*search_attempts(state), *panel_attempts(state), *state.attempts)


def any_attempt_of(state: TaskState, number: int) -> AttemptState | None:
    """The attempt with a number, whatever it is at."""
    return next((attempt for attempt in all_attempts(state) if attempt.number == number), None)


def next_number(state: TaskState) -> int:
    """The number of the next attempt: those of searches and answers share one row, and no number comes twice."""
    return max([attempt.number for attempt in all_attempts(state)], default=0) + 1


def running_numbers(state: TaskState) -> Collection[int]:
    """The numbers of the attempts that are out."""
    if state.phase is TaskPhase.RUNNING:
        return (state.attempts[-1].number,)
    if state.phase is TaskPhase.SEARCHING:
        return [attempt.number for attempt in search_attempts(state) if attempt.outcome is None]
    if state.phase is TaskPhase.CONSULTING:
        return [attempt.number for attempt in panel_attempts(state) if attempt.outcome is None]
    return ()


def attempt_of(state: TaskState, number: int) -> AttemptState | None:
    """The attempt with a number, as far as it is held. Numbers have gaps where attempts asked nobody."""
    return next((attempt for attempt in state.attempts if attempt.number == number), None)


def closed(state: TaskState, attempt: AttemptState, now: int, retry: Retry) -> TaskState:
    """The state after the end of an attempt that it holds."""
    attempts = tuple([attempt if one.number == attempt.number else one for one in state.attempts])
    if attempt.asked:
        return changed(state, attempts=attempts)
    newest = {number for numbers in unasked(attempts).values() for number in numbers[-retry.attempts_per_model :]}
    newest.update({(one.provider, one.model, one.site): one.number for one in attempts if not one.asked}.values())
    kept = [one for one in attempts if one.asked or one.number in newest]
    failure = attempt.failure
    step = TrailStep(
        at=now, step=NOT_ASKED, provider=attempt.provider, model=attempt.model,
        reason="" if failure is None else failure.code,
    )  # fmt: skip
    return replace(state, attempts=tuple(kept), trail=(*_without(state.trail, attempt), step))


def _without(trail: Sequence[TrailStep], attempt: AttemptState) -> Sequence[TrailStep]:
    """A trail without the dispatch of an attempt that asked nobody, and without earlier such attempts of its model."""
    of_model = [one for one in trail if (one.provider, one.model) == (attempt.provider, attempt.model)]
    sent = [one for one in of_model if one.step == "dispatched" and one.at == attempt.dispatched_at]
    # The last one only: two attempts of a model may have been sent within one millisecond.
    gone = [one for one in of_model if one.step == NOT_ASKED] + sent[-1:]
    return [one for one in trail if not any(one is other for other in gone)]
