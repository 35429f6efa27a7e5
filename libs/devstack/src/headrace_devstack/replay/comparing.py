"""What differs between two policies over recorded tasks: where they go, what that costs, what leaves. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from headrace_models.ports import CallUsage
from headrace_models.prices import PriceBook, PriceUnknown, cost

from headrace_devstack.replay.deciding import Decider, ReplayedDecision
from headrace_devstack.replay.recorded import ModelName, Recorded, typical_milliseconds


@dataclass(slots=True)
class Group:
    """Tasks that go from one place to another.

    Attributes:
        tasks: How many.
        nanodollars: What their answers cost before and after, of those for which both are known.
        unpriced: Tasks for which one of them is not known.
    """

    tasks: int = 0
    before_nanodollars: int = 0
    after_nanodollars: int = 0
    unpriced: int = 0


@dataclass(frozen=True, slots=True)
class Move:
    """A line of the comparison.

    Attributes:
        before, after: Where tasks go, or what becomes of them, by each policy.
        before_ms, after_ms: The median time of an answer there, as recorded; None where there is none.
    """

    before: str
    after: str
    group: Group
    before_ms: float | None = None
    after_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result of a replay.

    Attributes:
        tasks: Tasks that were decided about anew; `shared` ones were served by another task's answer, and are not.
        compared, reproduced: Tasks whose recorded first decision is known, and those of them about which the policy
            that counts now decides the same: the better this share, the more the replay tells.
        moves: By where tasks go, the largest first; those that stay where they are, too.
        leave, stay: By privacy level, tasks whose text would go to a provider that is not ours and does not now, and
            the other way round.
        stopped, freed: By reason, tasks that would be sent to no model and are now, and the other way round.
    """

    tasks: int
    shared: int
    compared: int
    reproduced: int
    moves: tuple[Move, ...]
    leave: Mapping[str, int]
    stay: Mapping[str, int]
    stopped: Mapping[str, int]
    freed: Mapping[str, int]

    @property
    def moved(self) -> int:
        """Tasks that go elsewhere, or of which something else becomes."""
        return sum(move.group.tasks for move in self.moves if move.before != move.after)

    @property
    def total(self) -> Group:
        """Of all tasks."""
        groups = [move.group for move in self.moves]
        return Group(
            sum(each.tasks for each in groups), sum(each.before_nanodollars for each in groups),
            sum(each.after_nanodollars for each in groups), sum(each.unpriced for each in groups),
        )  # fmt: skip


@dataclass(slots=True)
class Comparing:
    """Collects the comparison task by task; what it holds grows with the places, not with the tasks."""

    before: Decider
    after: Decider
    prices: PriceBook
    tasks: int = 0
    shared: int = 0
    compared: int = 0
    reproduced: int = 0
    _groups: dict[tuple[str, str], Group] = field(default_factory=dict)
    _models: dict[str, tuple[ModelName, ...]] = field(default_factory=dict)
    _durations: dict[ModelName, list[float]] = field(default_factory=dict)
    _leave: Counter[str] = field(default_factory=Counter)
    _stay: Counter[str] = field(default_factory=Counter)
    _stopped: Counter[str] = field(default_factory=Counter)
    _freed: Counter[str] = field(default_factory=Counter)

    def take(self, recorded: Recorded) -> None:
        """Decide about one task by both policies."""
        if recorded.shared:
            self.shared += 1
            return
        self.tasks += 1
        before, after = self.before.decide(recorded), self.after.decide(recorded)
        if recorded.sent_to is not None:
            self.compared += 1
            self.reproduced += recorded.sent_to == before.sent_to
        if recorded.answered_by is not None and recorded.model_ms > 0:
            _keep(self._durations.setdefault(recorded.answered_by, []), recorded.model_ms)
        group = self._groups.setdefault((before.name, after.name), Group())
        group.tasks += 1
        for verdict in (before, after):
            self._models[verdict.name] = verdict.sent_to
        costs = self._cost(before, recorded.usage), self._cost(after, recorded.usage)
        if costs[0] is None or costs[1] is None:
            group.unpriced += 1
        else:
            group.before_nanodollars += costs[0]
            group.after_nanodollars += costs[1]
        self._leave[after.privacy.value] += after.leaves and not before.leaves
        self._stay[before.privacy.value] += before.leaves and not after.leaves
        if before.sent_to and not after.sent_to:
            self._stopped[after.otherwise] += 1
        if after.sent_to and not before.sent_to:
            self._freed[before.otherwise] += 1

    def result(self) -> Comparison:
        """The comparison of all tasks so far."""
        typical = typical_milliseconds(self._durations)
        moves = [
            Move(names[0], names[1], group, self._time(names[0], typical), self._time(names[1], typical))
            for names, group in self._groups.items()
        ]
        moves.sort(key=lambda move: (move.before == move.after, -move.group.tasks, move.before, move.after))
        return Comparison(
            self.tasks, self.shared, self.compared, self.reproduced, tuple(moves), +self._leave, +self._stay,
            +self._stopped, +self._freed,
        )  # fmt: skip

    def _cost(self, verdict: ReplayedDecision, usage: CallUsage | None) -> int | None:
        """Of an answer as long as the recorded one; None if that, or a price, is not known."""
        if not verdict.sent_to:
            return 0
        if usage is None:
            return None
        try:
            return sum(cost(usage, self.prices.price(*name)) for name in verdict.sent_to)
        except PriceUnknown:
            return None

    def _time(self, name: str, typical: Mapping[ModelName, float]) -> float | None:
        sent_to = self._models.get(name, ())
        if not sent_to or not all(each in typical for each in sent_to):
            return None
        return max(typical[each] for each in sent_to)


_MOST_DURATIONS: Final = 10_001


def _keep(durations: list[float], milliseconds: float) -> None:
    """As many as a median needs: every second of them is forgotten once there are too many."""
    durations.append(milliseconds)
    if len(durations) > _MOST_DURATIONS:
        del durations[::2]


def document(comparison: Comparison) -> dict[str, object]:
    """As JSON. Money in nano-dollars, times in milliseconds."""
    total = comparison.total
    return {
        "tasks": comparison.tasks,
        "shared": comparison.shared,
        "moved": comparison.moved,
        "reproduced": {"compared": comparison.compared, "same": comparison.reproduced},
        "cost": {
            "before_nanodollars": total.before_nanodollars,
            "after_nanodollars": total.after_nanodollars,
            "unpriced_tasks": total.unpriced,
        },
        "privacy": {"leave": dict(comparison.leave), "stay": dict(comparison.stay)},
        "refusals": {"stopped": dict(comparison.stopped), "freed": dict(comparison.freed)},
        "moves": [
            {
                "before": move.before,
                "after": move.after,
                "tasks": move.group.tasks,
                "before_nanodollars": move.group.before_nanodollars,
                "after_nanodollars": move.group.after_nanodollars,
                "unpriced_tasks": move.group.unpriced,
                "before_ms": move.before_ms,
                "after_ms": move.after_ms,
            }
            for move in comparison.moves
        ],
    }


def destinations(moves: Iterable[Move]) -> Sequence[tuple[str, int, int]]:
    """Each place with its tasks before and after, the largest first."""
    before: Counter[str] = Counter()
    after: Counter[str] = Counter()
    for move in moves:
        before[move.before] += move.group.tasks
        after[move.after] += move.group.tasks
    names = sorted(before.keys() | after.keys(), key=lambda name: (-max(before[name], after[name]), name))
    return [(name, before[name], after[name]) for name in names]
