"""The life of a batch as a table: every pair of status and event."""

from __future__ import annotations

import itertools
import re
from uuid import UUID

import pytest
from headrace_intake.decide.batches.life import (
    LIVE,
    TRANSITIONS,
    BatchEvent,
    BatchStatus,
    NoSuchTransition,
    after,
    cancelled,
    task_id_of,
)
from headrace_intake.decide.refusals import Refusal
from headrace_intake.decide.resuming import unknown_until

POSSIBLE = {
    ("validating", "FILE_VALID"): "in_progress",
    ("validating", "FILE_INVALID"): "failed",
    ("validating", "CANCEL_REQUESTED"): "cancelling",
    ("in_progress", "CANCEL_REQUESTED"): "cancelling",
    ("in_progress", "ALL_LINES_ENDED"): "finalizing",
    ("in_progress", "WINDOW_CLOSED"): "finalizing",
    ("finalizing", "RESULTS_WRITTEN"): "completed",
    ("finalizing", "RESULTS_OF_EXPIRED_WRITTEN"): "expired",
    ("cancelling", "CANCEL_REQUESTED"): "cancelling",
    ("cancelling", "ALL_LINES_ENDED"): "cancelling",
    ("cancelling", "WINDOW_CLOSED"): "cancelling",
    ("cancelling", "RESULTS_WRITTEN"): "cancelled",
}


@pytest.mark.parametrize(("status", "event"), list(itertools.product(BatchStatus, BatchEvent)), ids=str)
def test_every_pair_of_status_and_event(status: BatchStatus, event: BatchEvent) -> None:
    expected = POSSIBLE.get((status.value, event.name))
    if expected is None:
        with pytest.raises(NoSuchTransition):
            after(status, event)
    else:
        assert after(status, event) is BatchStatus(expected)


def test_only_batches_that_have_ended_stay_as_they_are() -> None:
    assert {status for status, _ in TRANSITIONS} == LIVE
    assert set(TRANSITIONS.values()) | {BatchStatus.VALIDATING} == set(BatchStatus)


@pytest.mark.parametrize("status", BatchStatus)
def test_what_cannot_be_cancelled_is_a_conflict(status: BatchStatus) -> None:
    if status in ("validating", "in_progress", "cancelling"):
        assert cancelled(status) is BatchStatus.CANCELLING
        return
    with pytest.raises(Refusal) as refused:
        cancelled(status)
    assert refused.value.status == 409
    assert status in refused.value.detail


@pytest.mark.parametrize("created_at", [0, 1_800_000_000_123, (1 << 48) - 1])
def test_the_task_id_of_a_line_is_a_uuid_of_its_batch_line_and_round(created_at: int) -> None:
    made = {
        task_id_of(batch, line, round_, created_at)
        for batch in ("batch_a", "batch_b", "batch_a/1")
        for line in (1, 2, 11, 50_000)
        for round_ in (0, 1, 11)
    }
    assert len(made) == 36
    assert task_id_of("batch_a", 1, 0, created_at) in made
    for task_id in made:
        assert (UUID(task_id).version, UUID(task_id).variant) == (7, "specified in RFC 4122")
        assert re.fullmatch(r"[0-9a-f-]{36}", task_id)
        assert int(task_id.replace("-", "")[:12], 16) == created_at
    assert unknown_until(task_id_of("b", 1, 0, 5_000), 5_100) == 6_100
