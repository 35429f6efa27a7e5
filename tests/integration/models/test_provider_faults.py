"""Each kind of trouble that an upstream can make, over each wire: what is reported, what is booked, what is kept."""

from __future__ import annotations

import pytest
from headrace_contracts.content import text_of
from headrace_contracts.events import Outcome
from headrace_models.answer import DECLINED
from headrace_testing.provider_faults.faults import FAULTS, PROMPT, Fault
from headrace_testing.provider_faults.outcomes import outcome_of
from headrace_testing.provider_faults.page import PAGE, text
from headrace_testing.provider_faults.wires import WIRES


@pytest.mark.parametrize("name", WIRES)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
async def test_it_ends_in_one_report_and_costs_what_it_cost(fault: Fault, name: str) -> None:
    wire = WIRES[name]
    found = await outcome_of(fault, wire)
    if found is None:
        return
    expected, finished = fault.expected(wire), found.finished
    assert found.busy == 0, "the slot is given back"
    assert len(found.usages) == (finished.node is not None), "a call that was made is booked, once"
    assert all(event.usage == finished.usage for event in found.usages)
    if expected.code is None:
        assert finished.failure is None, finished.failure
        assert finished.outcome is (Outcome.REFUSED if expected.finish in DECLINED else Outcome.ANSWERED)
        assert finished.finish_reason == expected.finish
        assert finished.content is not None
        assert text_of(finished.content) == expected.text == found.pieces
        assert finished.model == wire.model
    else:
        assert finished.failure is not None
        assert finished.failure.code == expected.code, finished.failure.message
        assert finished.failure.retry_after_ms == expected.retry_after_ms
        assert PROMPT not in finished.failure.message
        assert finished.content is None
    used = finished.usage.input_tokens, finished.usage.output_tokens
    if expected.used(wire) != (-1, -1):
        assert used == expected.used(wire)
    assert finished.usage.cached_input_tokens <= finished.usage.input_tokens
    assert len(found.requests) <= 1, "the router decides about retries"


def test_there_are_many_kinds() -> None:
    assert len(FAULTS) >= 60
    assert len({fault.id for fault in FAULTS}) == len(FAULTS)


async def test_the_page_says_what_happens() -> None:
    told = PAGE.read_text(encoding="utf-8")
    measured = await text()
    for _ in range(2):
        # Some rows are about silence of a fraction of a second: on a machine that stood still, they time out.
        if measured != told:
            measured = await text()
    assert told == measured, "run `make generate`"
