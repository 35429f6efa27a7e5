"""A day drawn from a seed: its machines, who asks what and when, and what happens to the machines. Times in seconds."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from headrace_contracts.events import Lane, Privacy

from headrace_testing.fleet_day.machines import MODELS, Condition, MachineSpec

HOUR: Final = 3600.0
DAY: Final = 24 * HOUR
_FIRST, _LAST = 8.0, 18.0
"""Hours between which laptops are here."""
_PROMPT_SHARE: Final = 1.0 / 20
"""Time to read a token, as a share of the time to write one."""
_SPEEDS: Final = (1.0,) * 18 + (1.5,) * 8 + (2.0,) * 8 + (4.0,) * 8 + (8.0,) * 5 + (15.0,) * 2 + (25.0,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of task: what it asks for, and how long its answers and prompts are, in tokens.

    Attributes:
        share: Of all tasks.
        model: The model that it asks for, or the first one of its role.
        role: Role of the policy; empty where the model is asked for by name.
    """

    share: float
    model: str
    role: str = ""
    lane: Lane
    answer: tuple[int, int]
    prompt: tuple[int, int] = (200, 2_000)
    privacy: Privacy | None = None


_TALK, _WORK = (100, 400), (1_500, 9_000)
_SENSITIVE: Final = Privacy.SENSITIVE
KINDS: Final[Sequence[Kind]] = (
    Kind(share=10, role="conversation_scribe", model="gemma2:2b", lane=Lane.INTERACTIVE, answer=_TALK),
    Kind(share=10, role="task_router", model="gemma2:2b", lane=Lane.INTERACTIVE, answer=(5, 30), prompt=(100, 500)),
    Kind(share=8, role="code_reviewer", model="phi3:3.8b", lane=Lane.INTERACTIVE, answer=_TALK),
    Kind(share=6, role="security_reviewer", model="phi3:3.8b", lane=Lane.INTERACTIVE, answer=_TALK, privacy=_SENSITIVE),
    Kind(share=6, role="research", model="llama3:8b", lane=Lane.INTERACTIVE, answer=_TALK),
    Kind(share=4, model="llama3.1:8b", lane=Lane.INTERACTIVE, answer=_TALK),
    Kind(share=4, model="qwen2.5:7b", lane=Lane.INTERACTIVE, answer=_TALK),
    Kind(share=10, role="documentation", model="qwen2.5-coder:1.5b", lane=Lane.BATCH, answer=_WORK),
    Kind(share=10, role="testing", model="qwen2.5-coder:7b", lane=Lane.BATCH, answer=_WORK),
    Kind(share=8, role="security_reviewer", model="phi3:3.8b", lane=Lane.BATCH, answer=_WORK, privacy=_SENSITIVE),
    Kind(share=8, role="back_end", model="qwen2.5-coder:7b", lane=Lane.BATCH, answer=_WORK),
    Kind(share=6, role="research", model="llama3:8b", lane=Lane.BATCH, answer=_WORK),
    Kind(share=5, model="codellama:7b", lane=Lane.BATCH, answer=_WORK),
    Kind(share=5, model="mistral:7b", lane=Lane.BATCH, answer=_WORK),
)


@dataclass(frozen=True, slots=True)
class Change:
    """At a time a machine becomes this, or so many times as slow."""

    at: float
    machine: str
    condition: Condition | None = None
    slowness: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """So many tasks of a kind at once, each with so many seconds; None for what the policy gives."""

    at: float
    kind: Kind
    number: int = 1
    deadline: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DayPlan:
    """A whole day, or a part of one.

    Attributes:
        seconds: How long it lasts; tasks come until then.
        rate: Tasks a second at the busiest time.
        curve: Which share of it comes at a time.
        restart_spans: Rolling restarts of all machines.
        bursts: Tasks beside these.
    """

    seed: int
    seconds: float
    machines: Sequence[MachineSpec]
    rate: float = 0.0
    curve: Sequence[tuple[float, float]] = ((0.0, 1.0),)
    changes: Sequence[Change] = ()
    restart_spans: Sequence[tuple[float, float]] = ()
    bursts: Sequence[Burst] = ()

    def share_at(self, at: float) -> float:
        """How much of the busiest time's tasks come at a time: between the points of the curve it is linear."""
        for (since, low), (until, high) in zip(self.curve, self.curve[1:], strict=False):
            if since <= at <= until:
                return low + (high - low) * (at - since) / (until - since)
        return self.curve[-1][1]


def draw_day(seed: int, *, machines: int = 50, load: float = 0.75, restarts: int = 16) -> DayPlan:
    """A day from midnight to midnight.

    Args:
        load: What is asked for at the busiest time, as a share of what all machines together can do.
        restarts: Rolling restarts, in working hours.
    """
    rng = random.Random(f"{seed} fleet day")
    specs = _machines(rng, machines)
    changes = [one for spec in specs for one in _life(rng, spec, DAY)]
    spans = []
    for number in range(restarts):
        begin = (8.5 + 9.0 * number / max(1, restarts)) * HOUR
        rolled, end = _rolling(rng, specs, begin)
        changes += rolled
        spans.append((begin, end))
    curve = [(hour * HOUR, _daily(hour)) for hour in range(25)]
    return DayPlan(
        seed=seed, seconds=DAY, machines=specs, rate=_rate(specs, load), curve=curve,
        changes=sorted(changes, key=lambda one: one.at), restart_spans=spans,
    )  # fmt: skip


def draw_half_hour(seed: int, *, load: float = 0.7) -> DayPlan:
    """Half an hour with much trouble, for 8 to 12 machines."""
    rng = random.Random(f"{seed} fleet half hour")
    drawn = [
        _with_models(rng, f"m{number:02}", rng.choice((1.0, 1.0, 2.0, 4.0, 10.0, 25.0)), laptop=False)
        for number in range(rng.randint(8, 12))
    ]
    specs = _everywhere(rng, drawn)
    seconds = 0.5 * HOUR
    changes: list[Change] = []
    for spec in rng.sample(specs, 5):
        trouble, at = rng.choice(tuple(Condition)[1:]), rng.uniform(120.0, 1_100.0)
        changes += _trouble(spec.name, trouble, at, rng.uniform(60.0, 400.0))
    slow = rng.choice(specs).name
    changes += [Change(300.0, slow, slowness=rng.uniform(2.0, 6.0)), Change(1_000.0, slow, slowness=1.0)]
    rolled, end = _rolling(rng, specs, 1_200.0)
    return DayPlan(
        seed=seed, seconds=seconds, machines=specs, rate=_rate(specs, load), curve=((0.0, 0.6), (600.0, 1.0)),
        changes=sorted([*changes, *rolled], key=lambda one: one.at), restart_spans=((1_200.0, end),),
    )  # fmt: skip


def seconds_of(kind: Kind) -> float:
    """What a task of a kind takes at a machine of speed 1, on average."""
    tokens = sum(kind.answer) / 2 + sum(kind.prompt) / 2 * _PROMPT_SHARE
    return tokens / MODELS[kind.model].tokens_per_second


def _rate(specs: Sequence[MachineSpec], load: float) -> float:
    """Tasks a second that are this share of what all machines can do."""
    can = sum(spec.speed * spec.slots for spec in specs)
    return load * can / (sum(kind.share * seconds_of(kind) for kind in KINDS) / sum(kind.share for kind in KINDS))


def _daily(hour: float) -> float:
    """Share of the busiest time: little at night, most in working hours."""
    return 0.12 + 0.88 * math.exp(-(((hour - 13.5) / 4.2) ** 4))


def _machines(rng: random.Random, number: int) -> Sequence[MachineSpec]:
    speeds = [_SPEEDS[round(index * (len(_SPEEDS) - 1) / max(1, number - 1))] for index in range(number)]
    specs = [
        _with_models(rng, f"m{index:02}", speed, laptop=speed <= 2.0 and rng.random() < 0.6)
        for index, speed in enumerate(speeds)
    ]
    return _everywhere(rng, specs)


def _with_models(rng: random.Random, name: str, speed: float, *, laptop: bool) -> MachineSpec:
    """A machine with memory for one to four of its models."""
    memory = rng.choice((5.0, 8.0, 12.0) if speed <= 2 else (8.0, 12.0, 16.0, 24.0))
    listed = rng.sample([one.name for one in MODELS.values() if one.size_gb <= memory], rng.randint(3, 6))
    slots = 1 if memory < 8 or rng.random() < 0.6 else 2
    return MachineSpec(
        name=name, speed=speed, slots=slots, memory_gb=memory, models=tuple(sorted(listed)), laptop=laptop,
        latency=rng.choice((0.0005, 0.001, 0.02, 0.15)),
    )  # fmt: skip


def _everywhere(rng: random.Random, specs: Sequence[MachineSpec]) -> Sequence[MachineSpec]:
    """The machines, with each model on a fifth of them at least, two of which are no laptops."""
    found = list(specs)
    for model in MODELS.values():
        fitting = [spec for spec in found if spec.memory_gb >= model.size_gb]
        least = max(3, len(found) // 5)
        while (
            sum(model.name in spec.models for spec in found) < least
            or sum(model.name in spec.models and not spec.laptop for spec in found) < 2
        ):
            without = [spec for spec in fitting if model.name not in spec.models]
            staying = [spec for spec in without if not spec.laptop] or without
            if not staying:
                break
            spec = rng.choice(staying)
            changed = MachineSpec(
                name=spec.name, speed=spec.speed, slots=spec.slots, memory_gb=spec.memory_gb,
                models=(*spec.models, model.name), latency=spec.latency, laptop=spec.laptop,
            )  # fmt: skip
            found[found.index(spec)] = changed
            fitting[fitting.index(spec)] = changed
    return found


def _life(rng: random.Random, spec: MachineSpec, seconds: float) -> Iterator[Change]:
    """What happens to a machine in a day."""
    if spec.laptop:
        yield Change(0.0, spec.name, Condition.AWAY)
        come, go = _FIRST + rng.uniform(-1.0, 1.5), _LAST + rng.uniform(-1.5, 2.0)
        yield Change(come * HOUR, spec.name, Condition.UP)
        yield Change(go * HOUR, spec.name, Condition.AWAY)
        for _ in range(rng.randint(1, 4)):
            yield from _trouble(spec.name, Condition.AWAY, rng.uniform(come, go - 1.0) * HOUR, rng.uniform(60, 2_400))
    for trouble, each, longest in ((Condition.DEAD, 12.0, 300.0), (Condition.STUCK, 24.0, 1_800.0)):
        at = rng.expovariate(1.0 / (each * HOUR))
        while at < seconds:
            if not spec.laptop or (_FIRST + 1.5) * HOUR < at < (_LAST - 2.0) * HOUR:
                yield from _trouble(spec.name, trouble, at, rng.uniform(20.0, longest))
            at += rng.expovariate(1.0 / (each * HOUR))
    for _ in range(rng.randint(0, 3)):
        at = rng.uniform(0.0, seconds)
        yield Change(at, spec.name, slowness=rng.uniform(1.5, 6.0))
        yield Change(at + rng.uniform(600.0, 3_600.0), spec.name, slowness=1.0)


def _trouble(machine: str, condition: Condition, at: float, seconds: float) -> Iterator[Change]:
    yield Change(at, machine, condition)
    yield Change(at + seconds, machine, Condition.UP)


def _rolling(rng: random.Random, specs: Sequence[MachineSpec], begin: float) -> tuple[list[Change], float]:
    """A restart of all machines, one after the other; each takes some seconds."""
    changes: list[Change] = []
    at = begin
    for spec in specs:
        down = rng.uniform(5.0, 20.0)
        changes += _trouble(spec.name, Condition.DEAD, at, down)
        at += down + 3.0
    return changes, at
