"""The life of a home partition in one router, as a transition table.

What each phase means for the partition, whose neighbours are never affected:

- RECOVERING: being taken over; its inputs are not routed.
- ROUTING: decides, records and publishes.
- DRAINING: takes no more input; what is recorded is still being published, then another member may have it.
- FENCED: another owner has written to the journal, or it is unsafe to publish for another reason. Nothing is published;
  it is taken over again soon, if the group still assigns it to this member.
- SUSPENDED: could not be taken over, or too many of its records failed. Taken over again after a growing wait.
- RELEASED: no longer this member's.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class PartitionPhase(StrEnum):
    """Where a home partition is in its life."""

    RECOVERING = "recovering"
    ROUTING = "routing"
    DRAINING = "draining"
    SUSPENDED = "suspended"
    FENCED = "fenced"
    RELEASED = "released"


class PartitionEvent(StrEnum):
    """What happens to a home partition.

    RECOVERED: it was taken over. FAILED: it could not be, or must not go on as it is. BROKEN: its journal is fenced.
    RETRIED: the wait is over. REVOKED: the group takes it back in an orderly way. LOST: the group has given it away.
    DRAINED: everything recorded is published.
    """

    RECOVERED = "recovered"
    FAILED = "failed"
    BROKEN = "broken"
    RETRIED = "retried"
    REVOKED = "revoked"
    LOST = "lost"
    DRAINED = "drained"


class ImpossibleTransition(Exception):
    """A defect: this event cannot happen in this phase."""


TRANSITIONS: Final[Mapping[tuple[PartitionPhase, PartitionEvent], PartitionPhase]] = MappingProxyType({
    (PartitionPhase.RECOVERING, PartitionEvent.RECOVERED): PartitionPhase.ROUTING,
    (PartitionPhase.RECOVERING, PartitionEvent.FAILED): PartitionPhase.SUSPENDED,
    (PartitionPhase.RECOVERING, PartitionEvent.REVOKED): PartitionPhase.RELEASED,
    (PartitionPhase.RECOVERING, PartitionEvent.LOST): PartitionPhase.RELEASED,
    # The journal may break before the take-over is complete: its timers run already.
    (PartitionPhase.RECOVERING, PartitionEvent.BROKEN): PartitionPhase.FENCED,
    (PartitionPhase.ROUTING, PartitionEvent.BROKEN): PartitionPhase.FENCED,
    (PartitionPhase.ROUTING, PartitionEvent.FAILED): PartitionPhase.SUSPENDED,
    (PartitionPhase.ROUTING, PartitionEvent.REVOKED): PartitionPhase.DRAINING,
    (PartitionPhase.ROUTING, PartitionEvent.LOST): PartitionPhase.RELEASED,
    # The drain ends at once then; the successor publishes the rest.
    (PartitionPhase.DRAINING, PartitionEvent.BROKEN): PartitionPhase.DRAINING,
    (PartitionPhase.DRAINING, PartitionEvent.DRAINED): PartitionPhase.RELEASED,
    (PartitionPhase.DRAINING, PartitionEvent.LOST): PartitionPhase.RELEASED,
    (PartitionPhase.SUSPENDED, PartitionEvent.RETRIED): PartitionPhase.RECOVERING,
    (PartitionPhase.SUSPENDED, PartitionEvent.REVOKED): PartitionPhase.RELEASED,
    (PartitionPhase.SUSPENDED, PartitionEvent.LOST): PartitionPhase.RELEASED,
    (PartitionPhase.FENCED, PartitionEvent.RETRIED): PartitionPhase.RECOVERING,
    (PartitionPhase.FENCED, PartitionEvent.REVOKED): PartitionPhase.RELEASED,
    (PartitionPhase.FENCED, PartitionEvent.LOST): PartitionPhase.RELEASED,
})  # fmt: skip


def after(phase: PartitionPhase, event: PartitionEvent) -> PartitionPhase:
    """The phase that follows. Raises ImpossibleTransition."""
    try:
        return TRANSITIONS[phase, event]
    except KeyError:
        raise ImpossibleTransition(f"a partition that is {phase} cannot be {event}") from None
