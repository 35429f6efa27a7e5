"""Which tasks are cancelled when callers hang up, decided without connections."""

from __future__ import annotations

import itertools

import pytest
from headrace_intake.decide.on_disconnect import (
    HEADER,
    OnDisconnect,
    Waiters,
    joined,
    left,
    parse_on_disconnect,
)
from headrace_intake.decide.options import with_headers
from headrace_intake.decide.refusals import Refusal
from multidict import CIMultiDict

CANCEL, CONTINUE = OnDisconnect.CANCEL, OnDisconnect.CONTINUE


@pytest.mark.parametrize(
    ("headers", "means"),
    [
        ({}, CONTINUE),
        ({HEADER: "cancel"}, CANCEL),
        ({"x-headrace-on-disconnect": " Cancel "}, CANCEL),
        ({HEADER: "continue"}, CONTINUE),
        ({"X-Headrace-Role": "cancel"}, CONTINUE),
    ],
)
def test_the_header_is_read(headers: dict[str, str], means: OnDisconnect) -> None:
    assert parse_on_disconnect(headers) is means
    assert "on_disconnect" not in with_headers({}, headers), "it is no field of a task"


@pytest.mark.parametrize("said", [["abort"], [""], ["true"], ["cancel", "cancel"], ["cancel", "continue"], ["cancel,"]])
def test_anything_else_is_refused_by_the_headers_name(said: list[str]) -> None:
    headers = CIMultiDict([(HEADER, value) for value in said])
    for read in (parse_on_disconnect, lambda told: with_headers({}, told)):
        with pytest.raises(Refusal, match=HEADER) as refused:
            read(headers)
        assert (refused.value.status, refused.value.param) == (400, HEADER)


LEAVINGS = [(asked, hung_up) for asked in OnDisconnect for hung_up in (False, True)]


@pytest.mark.parametrize("leavings", [*itertools.product(LEAVINGS, repeat=2), *itertools.product(LEAVINGS, repeat=3)])
def test_a_task_is_cancelled_once_when_all_have_hung_up_and_wanted_that(
    leavings: tuple[tuple[OnDisconnect, bool], ...],
) -> None:
    waiters: Waiters | None = None
    for _ in leavings:
        waiters = joined(waiters)
    cancelled = []
    for asked, hung_up in leavings:
        assert waiters is not None
        waiters, cancel = left(waiters, asked, hung_up=hung_up)
        cancelled.append(cancel)
    assert waiters is None
    assert not any(cancelled[:-1])
    assert cancelled[-1] is all(leaving == (CANCEL, True) for leaving in leavings)
