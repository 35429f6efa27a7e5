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
}
"""Time until the next fault, in seconds, after this one is undone and the platform is healthy again."""
_HOLD: Final = {Blow.ZOMBIE: SESSION_SECONDS + 2.5, Blow.REGISTRY_GONE: 5.0, Blow.DISK_FULL: 4.0}

Deck = Sequence[tuple[Blow, tuple[str, ...]]]


@dataclass(frozen=True, slots=True)
class Act:
    """One fault.

    Attributes:
        targets: Services; empty for the other parts.
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


def acts(seed: int, deck: Deck, *, again: bool) -> Iterator[Act]:
    """Deal the deck, shuffled; repeatedly with `again`, otherwise once."""
    random_ = random.Random(seed)
    while True:
        hand = list(deck)
        random_.shuffle(hand)
        for blow, targets in hand:
            yield Act(blow, targets, _HOLD.get(blow, 0.0), round(_PAUSE[blow] * random_.uniform(0.8, 1.2), 2))
        if not again:
            return
