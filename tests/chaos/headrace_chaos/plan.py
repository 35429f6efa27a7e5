"""Which part fails when: an order determined by its seed alone."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from headrace_devstack.services import NAMES


class Blow(StrEnum):
    """Kinds of faults."""

    KILL = "kill -9"
    STOP = "SIGTERM"
    ALL = "kill -9 of all services"
    ZOMBIE = "zombie"
    """SIGSTOP until its session has expired, then SIGCONT."""
    KAFKA_RESTART = "Kafka restart"
    KAFKA_KILL = "Kafka kill -9"
    POSTGRES_RESTART = "Postgres restart"
    POSTGRES_KILL = "Postgres kill -9"
    REGISTRY_GONE = "registry gone"
    """SIGSTOP: it accepts connections and sends nothing; meanwhile a service is killed, which needs it to start."""
    DISK_FULL = "disk full"

    # With three brokers.
    BROKER_KILL = "broker kill -9"
    CONTROLLER_KILL = "controller kill -9"
    """Of the broker that is the active controller."""
    BROKER_SLOW = "broker frozen briefly"
    """SIGSTOP and SIGCONT before the others notice: it still leads, and answers late."""
    BROKER_FROZEN = "broker frozen"
    """SIGSTOP until others have become leaders in its place, then SIGCONT: for a moment it believes that it leads."""
    TWO_BROKERS = "two brokers down"
    """kill -9 of two, which stay down: nothing can be acknowledged."""
    LEADERLESS = "partition without leader"
    """One partition of a topic is given to one broker, which then goes down for a minute; the others go on."""
    LEADERS_MOVED = "leaders moved"
    REASSIGNED = "partitions reassigned"
    """Taken from the broker that leads them, and given back to it: it copies them anew."""
    BROKERS_ROLLED = "brokers rolled"
    """SIGTERM to one after another, each when the one before has caught up."""
    PARTITIONS_ADDED = "partitions added"


OF_BROKERS: Final = (
    Blow.BROKER_KILL, Blow.CONTROLLER_KILL, Blow.BROKER_SLOW, Blow.BROKER_FROZEN, Blow.TWO_BROKERS, Blow.LEADERLESS,
    Blow.LEADERS_MOVED, Blow.REASSIGNED, Blow.BROKERS_ROLLED, Blow.PARTITIONS_ADDED,
)  # fmt: skip
SESSION_SECONDS: Final = 10.0
"""Session timeout of the consumer groups."""
_PAUSE: Final = {
    Blow.KILL: 2.0,
    Blow.STOP: 2.0,
    Blow.ALL: 3.0,
    Blow.ZOMBIE: 3.0,
    Blow.KAFKA_RESTART: 3.0,
    Blow.KAFKA_KILL: 3.0,
    Blow.POSTGRES_RESTART: 3.0,
    Blow.POSTGRES_KILL: 3.0,
    Blow.REGISTRY_GONE: 3.0,
    Blow.DISK_FULL: 3.0,
    **dict.fromkeys(OF_BROKERS, 3.0),
}
"""Time until the next fault, in seconds, after this one is undone and the platform is healthy again."""
BROKER_SESSION_SECONDS: Final = 9.0
"""Kafka's default: without a heartbeat for this long, a broker loses its partitions to the others."""
_HOLD: Final = {
    Blow.ZOMBIE: SESSION_SECONDS + 2.5,
    Blow.REGISTRY_GONE: 5.0,
    Blow.DISK_FULL: 4.0,
    Blow.BROKER_SLOW: 3.0,
    Blow.BROKER_FROZEN: BROKER_SESSION_SECONDS + 3.0,
    Blow.TWO_BROKERS: 15.0,
    Blow.LEADERLESS: 60.0,
}
_PICKS: Final = {
    Blow.BROKER_KILL: 1,
    Blow.BROKER_SLOW: 1,
    Blow.BROKER_FROZEN: 1,
    Blow.TWO_BROKERS: 2,
    Blow.LEADERLESS: 1,
}
"""Of so many of its targets, which the seed picks, a fault makes use."""
_BROKERS: Final = ("kafka-1", "kafka-2", "kafka-3")
_LEADERLESS: Final = (
    "tasks.submitted", "tasks.journal", "tasks.completed", "attempts.finished", "attempts.finished.cloud",
    "work.local.interactive", "work.cloud.batch", "tasks.replies", "usage.recorded",
)  # fmt: skip
"""Each task needs one partition of most of them; the others have five more."""

Deck = Sequence[tuple[Blow, tuple[str, ...]]]


@dataclass(frozen=True, slots=True)
class Act:
    """One fault.

    Attributes:
        targets: Services, brokers or topics; empty for the other parts.
        hold: Seconds until it is undone, for faults that are.
        pause: Seconds until the next one, after that.
    """

    blow: Blow
    targets: tuple[str, ...]
    hold: float
    pause: float


def full_deck(doubled: Sequence[str], *, disk: bool) -> Deck:
    """Every kind of blow, services several times. `doubled` are services that run twice: only they may sleep."""
    deck: list[tuple[Blow, tuple[str, ...]]] = [(Blow.KILL, (name,)) for name in NAMES]
    deck += [(Blow.KILL, ("router",)), (Blow.KILL, ("router", "local-worker")), (Blow.ALL, NAMES)]
    deck += [(Blow.STOP, (name,)) for name in NAMES]
    deck += [(Blow.ZOMBIE, (f"{name}-2",)) for name in doubled] + [(Blow.KILL, (f"{name}-2",)) for name in doubled]
    deck += [(blow, ()) for blow in (Blow.KAFKA_RESTART, Blow.KAFKA_KILL, Blow.POSTGRES_RESTART, Blow.POSTGRES_KILL)]
    deck += [(Blow.REGISTRY_GONE, ("local-worker",))]
    return [*deck, (Blow.DISK_FULL, ())] if disk else deck


def short_deck(doubled: Sequence[str], *, disk: bool) -> Deck:
    """Each kind once: what a minute has room for."""
    deck: list[tuple[Blow, tuple[str, ...]]] = [(Blow.KILL, (name,)) for name in NAMES]
    deck += [(Blow.STOP, ("router",)), (Blow.KAFKA_KILL, ()), (Blow.POSTGRES_KILL, ())]
    deck += [(Blow.REGISTRY_GONE, ("cloud-worker",))]
    deck += [(Blow.ZOMBIE, (f"{name}-2",)) for name in doubled[:1]]
    return [*deck, (Blow.DISK_FULL, ())] if disk else deck


def broker_deck(doubled: Sequence[str], *, partitions: bool) -> Deck:
    """Every kind of blow to three brokers, and some to services; with `partitions`, topics get more of these.

    Not a full disk: three brokers on one disk stop together, which is what killing all of them shows.
    """
    deck: list[tuple[Blow, tuple[str, ...]]] = [
        (blow, _BROKERS) for blow in (Blow.BROKER_KILL, Blow.BROKER_SLOW, Blow.BROKER_FROZEN, Blow.TWO_BROKERS)
    ]
    moves = (Blow.CONTROLLER_KILL, Blow.LEADERS_MOVED, Blow.REASSIGNED, Blow.BROKERS_ROLLED)
    deck += [(blow, ()) for blow in (*moves, Blow.KAFKA_KILL)] + [(Blow.LEADERLESS, _LEADERLESS)]
    deck += [(Blow.KILL, (name,)) for name in ("router", "local-worker", "intake")]
    deck += [(Blow.ZOMBIE, (f"{name}-2",)) for name in doubled[:1]]
    return [*deck, (Blow.PARTITIONS_ADDED, ())] if partitions else deck


def acts(seed: int, deck: Deck, *, again: bool) -> Iterator[Act]:
    """Deal the deck, shuffled; repeatedly with `again`, otherwise once."""
    random_ = random.Random(seed)
    while True:
        hand = list(deck)
        random_.shuffle(hand)
        for blow, among in hand:
            targets = tuple(random_.sample(among, _PICKS[blow])) if blow in _PICKS else among
            yield Act(blow, targets, _HOLD.get(blow, 0.0), round(_PAUSE[blow] * random_.uniform(0.8, 1.2), 2))
        if not again:
            return
