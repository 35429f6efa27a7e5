"""Which models should be on which nodes. Pure: nodes, roles and demand in, steps out.

1. What is asked for: each role's first model that some node has room for, weighted by the demand for the role.
2. Coverage: each of these models, the one with most demand first, goes to the node where it costs least: where it is in
   memory, else on disk, else where most memory is left.
3. Use: nodes with memory left get a copy of the model with most demand for its copies, as long as one fits. Only models
   that are on their disks already are copied, unless `pull_copies` says otherwise.

Nothing is removed from disks, and a model in memory that nobody asks for stays there unless its place is needed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Action = Literal["pull", "load", "unload", "keep"]


@dataclass(frozen=True, slots=True)
class PlacementNode:
    """A node that models can be placed on.

    Attributes:
        memory_bytes: What models may take of its memory; None if that is unknown: then it keeps what it has.
        disk_free_bytes: None if unknown: then the node itself refuses what does not fit.
        on_disk: Sizes of its models, by name.
        loaded: Names of those in memory.
    """

    name: str
    memory_bytes: int | None
    on_disk: Mapping[str, int] = field(default_factory=dict)
    loaded: frozenset[str] = frozenset()
    disk_free_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class RoleDemand:
    """A role, its models on our own nodes, the best first, and how much of all work is its."""

    role: str
    models: tuple[str, ...]
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class PlanStep:
    """What should happen with one model on one node, and why."""

    node: str
    model: str
    action: Action
    reason: str
    size_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class PlacementPlan:
    """The steps in the order in which to take them, and what no node can serve."""

    steps: tuple[PlanStep, ...]
    unserved: tuple[str, ...] = ()

    @property
    def changes(self) -> tuple[PlanStep, ...]:
        """The steps but for those that leave everything as it is."""
        return tuple(step for step in self.steps if step.action != "keep")


class _Room:
    """What is planned for one node."""

    def __init__(self, node: PlacementNode) -> None:
        self.node = node
        self.models: dict[str, str] = {}
        self._used = 0

    def fits(self, model: str, size: int) -> bool:
        if model in self.models:
            return False
        node = self.node
        if node.memory_bytes is None:
            # Then it has to come to terms with what is on its disk, one model after another if need be.
            return model in node.on_disk
        on_disk = model in node.on_disk or node.disk_free_bytes is None or size <= node.disk_free_bytes
        return on_disk and self._used + size <= node.memory_bytes

    def put(self, model: str, size: int, reason: str) -> None:
        self.models[model] = reason
        self._used += size

    def cost(self, model: str) -> tuple[int, float, str]:
        """How little has to change for a model to be here, then how full the node gets."""
        node = self.node
        far = 0 if model in node.loaded else 1 if model in node.on_disk else 2
        left = 0.0 if node.memory_bytes is None else float(node.memory_bytes - self._used)
        return far, -left, node.name


def plan(
    nodes: Sequence[PlacementNode],
    demands: Sequence[RoleDemand],
    sizes: Mapping[str, int],
    *,
    pull_copies: bool = False,
    unload_unasked: bool = False,
) -> PlacementPlan:
    """What to change so that every role that can be served is, and no memory lies idle.

    Args:
        sizes: Of models in memory, in bytes, where no node tells; a model of unknown size is not added anywhere.
        unload_unasked: Also unload models that nobody asks for where their memory is not needed.
    """
    rooms = [_Room(node) for node in nodes]
    known = {**sizes, **{model: size for node in nodes for model, size in node.on_disk.items()}}
    wanted: dict[str, float] = {}
    roles_of: dict[str, list[str]] = {}
    unserved: list[str] = []
    for demand in sorted(demands, key=lambda one: -one.weight):
        model = next((one for one in demand.models if one in wanted or _anywhere(rooms, one, known)), None)
        if model is None:
            unserved.append(demand.role)
            continue
        wanted[model] = wanted.get(model, 0.0) + demand.weight
        roles_of.setdefault(model, []).append(demand.role)
    crowded: list[str] = []
    for name in sorted(wanted, key=lambda one: (-wanted[one], one)):
        size = known.get(name, 0)
        fitting = [(room.cost(name), room) for room in rooms if room.fits(name, size)]
        if not fitting:
            crowded.append(name)
            continue
        _, best = min(fitting)
        best.put(name, size, f"for {_listed(roles_of[name])}")
    for name in crowded:
        unserved += roles_of[name]
        del wanted[name]
    _fill(rooms, wanted, known, pull_copies=pull_copies)
    steps = [step for room in rooms for step in _steps(room, known, wanted, unload_unasked=unload_unasked)]
    order = {"unload": 0, "pull": 1, "load": 2, "keep": 3}
    return PlacementPlan(
        tuple(sorted(steps, key=lambda one: (order[one.action], one.node, one.model))), tuple(dict.fromkeys(unserved))
    )


def _anywhere(rooms: Sequence[_Room], model: str, known: Mapping[str, int]) -> bool:
    return any(room.fits(model, known.get(model, 0)) for room in rooms) and (
        model in known or any(model in room.node.on_disk for room in rooms)
    )


def _fill(rooms: Sequence[_Room], wanted: Mapping[str, float], known: Mapping[str, int], *, pull_copies: bool) -> None:
    copies = {model: sum(model in room.models for room in rooms) for model in wanted}
    while True:
        options = [
            (-wanted[model] / (copies[model] + 1), room.cost(model), model, room)
            for room in rooms
            for model in wanted
            if room.node.memory_bytes is not None
            and (pull_copies or model in room.node.on_disk)
            and room.fits(model, known.get(model, 0))
        ]
        if not options:
            return
        # Names of nodes are part of the cost: no two options are alike before their rooms are compared.
        *_, model, room = min(options)
        room.put(model, known.get(model, 0), "a further copy, where memory is left")
        copies[model] += 1


def _steps(room: _Room, known: Mapping[str, int], wanted: Collection[str], *, unload_unasked: bool) -> list[PlanStep]:
    node, steps = room.node, []
    planned = sum(known.get(model, 0) for model in room.models)
    others = sorted(node.loaded - room.models.keys())
    for model in others:
        planned += known.get(model, 0)
        full = node.memory_bytes is not None and planned > node.memory_bytes
        if full:
            steps.append(PlanStep(node.name, model, "unload", "its memory is needed", known.get(model)))
        elif unload_unasked and model not in wanted:
            steps.append(PlanStep(node.name, model, "unload", "nobody is expected to ask for it", known.get(model)))
        else:
            why = "a further copy" if model in wanted else "nobody asks for it"
            steps.append(PlanStep(node.name, model, "keep", f"{why}, and its memory is not needed", known.get(model)))
    for model, reason in room.models.items():
        size = known.get(model)
        if model in node.loaded or node.memory_bytes is None:
            later = "" if model in node.loaded else "; loaded when it is asked for"
            steps.append(PlanStep(node.name, model, "keep", reason + later, size))
            continue
        if model not in node.on_disk:
            steps.append(PlanStep(node.name, model, "pull", reason, size))
        steps.append(PlanStep(node.name, model, "load", reason, size))
    return steps


def _listed(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
