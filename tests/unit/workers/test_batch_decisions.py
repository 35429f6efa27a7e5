"""Decisions about batches: what follows from what happens, who goes in, when it is looked at, whose a result is."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from headrace_contracts.events import BatchPhase, Lane, ModelOperation
from headrace_models.batch_calls import ResultKind, ResultLine, custom_id
from headrace_models.worker.batches.choosing import (
    LONGEST_MS,
    BatchOptions,
    band_of,
    due_at,
    execution_of,
    look_delay,
    may_wait,
    name_of,
)
from headrace_models.worker.batches.results import sort_results, unsettled
from headrace_models.worker.batches.steps import TABLE, BatchAction, BatchInput, ImpossibleInput, step
from headrace_testing.workers import attempt

OPTIONS = BatchOptions(least_seconds=3_600.0, reserve_seconds=600.0, look_seconds=30.0, longest_look_seconds=300.0)
NAME = "a" * 32

EXPECTED = """
gathered    taken     submitting submit
gathered    refused   settling   settle
gathered    due       settling   settle
gathered    unwanted  settling   settle
submitting  taken     submitting search
submitting  accepted  submitted  look
submitting  found     submitted  look
submitting  running   submitting search
submitting  not_there submitting submit
submitting  refused   settling   settle
submitting  due       settling   settle
submitted   taken     submitted  look
submitted   running   submitted  look
submitted   ended     settling   settle
submitted   gone      settling   settle
submitted   due       cancelling cancel
submitted   unwanted  cancelling cancel
cancelling  taken     cancelling cancel
cancelling  running   cancelling look
cancelling  ended     settling   settle
cancelling  gone      settling   settle
cancelling  due       settling   settle
cancelling  unwanted  cancelling look
settling    taken     settling   settle
settling    settled   -          close
"""


def test_every_pair_of_phase_and_input() -> None:
    expected = {
        (BatchPhase(phase), BatchInput(happened)): (None if then == "-" else BatchPhase(then), BatchAction(action))
        for phase, happened, then, action in (line.split() for line in EXPECTED.strip().splitlines())
    }
    for phase, happened in product(BatchPhase, BatchInput):
        if (phase, happened) in expected:
            assert step(phase, happened) == expected[phase, happened]
        else:
            with pytest.raises(ImpossibleInput):
                step(phase, happened)


def test_nothing_is_submitted_without_a_look_once_it_may_be_there() -> None:
    submits = {key for key, then in TABLE.items() if then.action is BatchAction.SUBMIT}
    assert submits == {
        (BatchPhase.GATHERED, BatchInput.TAKEN),
        (BatchPhase.SUBMITTING, BatchInput.NOT_THERE),
    }


def test_every_phase_leads_to_the_end() -> None:
    reached = {BatchPhase.SETTLING}
    for _ in BatchPhase:
        reached |= {phase for (phase, _), then in TABLE.items() if then.phase in reached}
    assert reached == set(BatchPhase) - {BatchPhase.UNKNOWN}


@pytest.mark.parametrize(
    ("changes", "keeps_order", "may"),
    [
        ({}, False, True),
        ({"lane": Lane.INTERACTIVE}, False, False),
        ({"operation": ModelOperation.EMBED}, False, False),
        ({"stream": True}, False, False),
        ({}, True, False),
    ],
)
def test_only_what_nobody_waits_for_goes_into_a_batch(changes: dict[str, Any], keeps_order: bool, may: bool) -> None:
    request = attempt(**{"lane": Lane.BATCH, **changes})
    assert may_wait(request, keeps_order=keeps_order) is may


@pytest.mark.parametrize(
    ("left_seconds", "band"),
    [(None, -1), (0, None), (-5, None), (3_599.9, None), (3_600, 1), (7_199, 1), (7_200, 2), (14_399, 2), (14_400, 3),
     (10**9, 19)],
)  # fmt: skip
def test_attempts_with_alike_deadlines_go_together(left_seconds: float | None, band: int | None) -> None:
    deadline = None if left_seconds is None else round(1_000_000 + left_seconds * 1000)
    assert band_of(deadline, 1_000_000, OPTIONS) == band


def test_a_batch_is_given_up_for_its_first_deadline() -> None:
    now = 1_000_000
    assert due_at([now + 9_000_000, None, now + 5_000_000], now, OPTIONS) == now + 4_400_000
    assert due_at([None], now, OPTIONS) == now + LONGEST_MS


def test_looks_become_rarer_and_do_not_come_together() -> None:
    assert look_delay(0, 0.5, OPTIONS) == 30.0
    assert look_delay(1, 0.5, OPTIONS) == 45.0
    assert look_delay(10**9, 0.5, OPTIONS) == 300.0
    assert (look_delay(0, 0.0, OPTIONS), look_delay(0, 1.0, OPTIONS)) == (22.5, 37.5)


def test_the_execution_follows_from_the_batch() -> None:
    assert execution_of("b", "p") == execution_of("b", "p")
    # One that was submitted twice is billed twice.
    assert len({execution_of("b", "p"), execution_of("b", "q"), execution_of("b", None), execution_of("c", "p")}) == 4
    assert "/" not in execution_of("b", "p/q")


def test_the_name_of_a_batch_at_its_provider() -> None:
    assert name_of("01234567-89ab-7def-8123-456789abcdef") == "0123456789ab7def8123456789abcdef"


def line(number: int, kind: ResultKind, name: str = NAME, **said: object) -> ResultLine:
    return ResultLine(custom_id(name, number), kind, said)


def test_whose_a_result_is() -> None:
    lines = [
        line(2, ResultKind.FAILED),
        line(0, ResultKind.ANSWERED, text="first"),
        line(0, ResultKind.ANSWERED, text="second"),
        line(0, ResultKind.FAILED),
        line(2, ResultKind.ANSWERED),
        line(7, ResultKind.ANSWERED),
        line(1, ResultKind.NOT_RUN, name="b" * 32),
        ResultLine("", ResultKind.BROKEN),
        line(3, ResultKind.BROKEN),
    ]
    found = sort_results(lines, NAME, 5)
    assert {number: found_line.kind for number, found_line in found.of.items()} == {
        0: ResultKind.ANSWERED,
        2: ResultKind.ANSWERED,
        3: ResultKind.BROKEN,
    }
    assert found.of[0].said == {"text": "first"}
    assert found.strange == 6
    # Without a result, and with one that nobody can read.
    assert unsettled(range(5), found) == [1, 3, 4]
