"""The life of a provider's batch as a table: what follows from what happened, and what is to be done next. Pure.

    GATHERED -> SUBMITTING -> SUBMITTED -> SETTLING -> (closed)
                    |  ^          |            ^
                    +--+     CANCELLING -------+

The phase is written to the log before the step that it names is taken at the provider. So whoever finds a batch in
SUBMITTING knows that it may be there, and looks for it before it submits it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final, NamedTuple

from headrace_contracts.events import BatchPhase


class BatchInput(Enum):
    """What happened to a batch."""

    TAKEN = "taken"
    """A worker is to go on with it."""
    ACCEPTED = "accepted"
    """The provider has given it an id."""
    FOUND = "found"
    """It was found at the provider after its submission had been interrupted."""
    NOT_THERE = "not_there"
    """The provider has none: its submission certainly came to nothing."""
    REFUSED = "refused"
    """The provider will not take it."""
    RUNNING = "running"
    """The provider works on it, or may do so."""
    ENDED = "ended"
    """Its results are there."""
    GONE = "gone"
    """The provider does not know it any more."""
    DUE = "due"
    """Ordinary calls would not fit any more before its first deadline."""
    UNWANTED = "unwanted"
    """All of its tasks were cancelled."""
    SETTLED = "settled"
    """All of its attempts have been reported."""


class BatchAction(Enum):
    """What is to be done."""

    SUBMIT = "submit"
    SEARCH = "search"
    """Look whether the provider has it."""
    LOOK = "look"
    """Ask the provider how far it is, after a while."""
    CANCEL = "cancel"
    """Ask the provider to end it; then look."""
    SETTLE = "settle"
    """Report what there are results for, and run the others as ordinary calls."""
    CLOSE = "close"
    """Remove it from the log."""


class BatchStep(NamedTuple):
    """The phase to record, and then the action. `phase` is None if nothing is left to record."""

    phase: BatchPhase | None
    action: BatchAction


class ImpossibleInput(Exception):
    """This cannot happen to a batch in this phase: a bug."""


_GATHERED, _SUBMITTING, _SUBMITTED, _CANCELLING, _SETTLING = (
    BatchPhase.GATHERED, BatchPhase.SUBMITTING, BatchPhase.SUBMITTED, BatchPhase.CANCELLING, BatchPhase.SETTLING,
)  # fmt: skip

TABLE: Final[Mapping[tuple[BatchPhase, BatchInput], BatchStep]] = {
    (_GATHERED, BatchInput.TAKEN): BatchStep(_SUBMITTING, BatchAction.SUBMIT),
    (_GATHERED, BatchInput.REFUSED): BatchStep(_SETTLING, BatchAction.SETTLE),
    (_GATHERED, BatchInput.DUE): BatchStep(_SETTLING, BatchAction.SETTLE),
    (_GATHERED, BatchInput.UNWANTED): BatchStep(_SETTLING, BatchAction.SETTLE),
    (_SUBMITTING, BatchInput.TAKEN): BatchStep(_SUBMITTING, BatchAction.SEARCH),
    (_SUBMITTING, BatchInput.ACCEPTED): BatchStep(_SUBMITTED, BatchAction.LOOK),
    (_SUBMITTING, BatchInput.FOUND): BatchStep(_SUBMITTED, BatchAction.LOOK),
    # Whether it came through is unknown: wait until it must show.
    (_SUBMITTING, BatchInput.RUNNING): BatchStep(_SUBMITTING, BatchAction.SEARCH),
    (_SUBMITTING, BatchInput.NOT_THERE): BatchStep(_SUBMITTING, BatchAction.SUBMIT),
    (_SUBMITTING, BatchInput.REFUSED): BatchStep(_SETTLING, BatchAction.SETTLE),
    (_SUBMITTING, BatchInput.DUE): BatchStep(_SETTLING, BatchAction.SETTLE),
    (_SUBMITTED, BatchInput.TAKEN): BatchStep(_SUBMITTED, BatchAction.LOOK),
    (_SUBMITTED, BatchInput.RUNNING): BatchStep(_SUBMITTED, BatchAction.LOOK),
    (_SUBMITTED, BatchInput.ENDED): BatchStep(_SETTLING, BatchAction.SETTLE),
    (_SUBMITTED, BatchInput.GONE): BatchStep(_SETTLING, BatchAction.SETTLE),
    (_SUBMITTED, BatchInput.DUE): BatchStep(_CANCELLING, BatchAction.CANCEL),
    (_SUBMITTED, BatchInput.UNWANTED): BatchStep(_CANCELLING, BatchAction.CANCEL),
    # The request may have been lost with the worker that made it.
    (_CANCELLING, BatchInput.TAKEN): BatchStep(_CANCELLING, BatchAction.CANCEL),
    (_CANCELLING, BatchInput.RUNNING): BatchStep(_CANCELLING, BatchAction.LOOK),
    (_CANCELLING, BatchInput.ENDED): BatchStep(_SETTLING, BatchAction.SETTLE),
    (_CANCELLING, BatchInput.GONE): BatchStep(_SETTLING, BatchAction.SETTLE),
    # It does not end: what it still answers is billed, and nobody waits for it.
    (_CANCELLING, BatchInput.DUE): BatchStep(_SETTLING, BatchAction.SETTLE),
    (_CANCELLING, BatchInput.UNWANTED): BatchStep(_CANCELLING, BatchAction.LOOK),
    (_SETTLING, BatchInput.TAKEN): BatchStep(_SETTLING, BatchAction.SETTLE),
    (_SETTLING, BatchInput.SETTLED): BatchStep(None, BatchAction.CLOSE),
}


def step(phase: BatchPhase, happened: BatchInput) -> BatchStep:
    """What follows. Raises ImpossibleInput."""
    try:
        return TABLE[phase, happened]
    except KeyError:
        raise ImpossibleInput(f"{happened.value} cannot happen to a batch that is {phase.value}") from None
