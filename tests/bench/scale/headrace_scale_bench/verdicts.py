"""From windows to what each dimension does to the cost of a task. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from headrace_bench.ratios import Spread, ratios, spread
from headrace_gateway_bench.figures import MeasuredWindow, Row, rows

FLAT: Final = 1.15
"""Most times the first configuration's processor time per task that still counts as the same."""
LEAST_MS: Final = 0.1
"""Milliseconds for a task, below which the growth of a single service says nothing."""


class Verdict(Enum):
    """What a dimension does to the processor time of a task."""

    FLAT = "flat"
    UNCERTAIN = "uncertain"
    GROWS = "grows"


@dataclass(frozen=True, slots=True)
class Size:
    """One configuration of a dimension, against the first one.

    Attributes:
        name: What there is of it, such as "1,000 tenants".
        idle_cores: Processors that the idle platform keeps busy in this configuration.
        busy_ms: Processor time for a task without what the idle platform takes in the same time, in milliseconds.
        cpu_ratio: How many times the processor time for a task of the first configuration it takes, round by round;
            None of the first one.
        grown: The services that take more of it than counts as flat, with their ratios.
    """

    name: str
    row: Row
    idle_cores: float
    busy_ms: float
    cpu_ratio: Spread | None
    grown: Mapping[str, Spread]

    @property
    def verdict(self) -> Verdict | None:
        """None of the first configuration."""
        return None if self.cpu_ratio is None else verdict_of(self.cpu_ratio)


@dataclass(frozen=True, slots=True)
class Dimension:
    """All sizes of what grows, beginning with the smallest."""

    name: str
    sizes: Sequence[Size]

    @property
    def verdict(self) -> Verdict:
        """The worst of its sizes."""
        found = {size.verdict for size in self.sizes}
        return next((one for one in (Verdict.GROWS, Verdict.UNCERTAIN) if one in found), Verdict.FLAT)


def verdict_of(ratio: Spread) -> Verdict:
    """Flat by the median of the rounds' ratios; growing only if no round contradicts."""
    if ratio.median <= FLAT:
        return Verdict.FLAT
    return Verdict.GROWS if ratio.low > FLAT else Verdict.UNCERTAIN


def grown(pairs: Sequence[tuple[MeasuredWindow, MeasuredWindow]]) -> dict[str, Spread]:
    """The services whose processor time for a task is above what counts as flat, with their ratios, largest first.

    Args:
        pairs: A window of the first size and one of the other, of each round.
    """
    found: dict[str, Spread] = {}
    for part in pairs[0][0].cpu_seconds.keys() & pairs[0][1].cpu_seconds.keys():
        before, after = ([_part_ms(window, part) for window in windows] for windows in zip(*pairs, strict=True))
        if all(before) and spread(after).median - spread(before).median >= LEAST_MS:
            ratio = ratios(after, before)
            if ratio.median > FLAT:
                found[part] = ratio
    return dict(sorted(found.items(), key=lambda item: -item[1].median))


def _part_ms(window: MeasuredWindow, part: str) -> float:
    return 1000 * window.cpu_seconds.get(part, 0.0) / window.answered


def by_service(window: MeasuredWindow) -> MeasuredWindow:
    """The same window with the instances of each service added up: `router-2` is of `router`."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for part, used in window.cpu_seconds.items():
        name, _, number = part.rpartition("-")
        seconds[name if name and number.isdecimal() else part] += used
    return replace(window, cpu_seconds=dict(seconds))


def dimension(name: str, windows: Sequence[MeasuredWindow], idle: Mapping[str, float]) -> Dimension | None:
    """What its windows say; the first window's configuration is the one that the others are compared with.

    Args:
        windows: Of all its configurations, each round's together.
        idle: Processors that each configuration keeps busy when nothing is asked of it.

    Returns None unless the first configuration has answers in every round. Others without are left out.
    """
    merged = [by_service(window) for window in windows]
    if not merged:
        return None
    first = merged[0].setup.system
    found = {row.setup.system: row for row in rows(merged, first)}
    if first not in found:
        return None
    by_size: defaultdict[str, dict[int, MeasuredWindow]] = defaultdict(dict)
    for window in merged:
        by_size[window.setup.system][window.round] = window
    sizes = dict.fromkeys(window.setup.system for window in sorted(merged, key=lambda window: window.round))
    return Dimension(
        name,
        [
            Size(
                system,
                found[system],
                idle[system],
                _above_idle(found[system], idle[system]),
                None if system == first else found[system].cpu_ratio,
                {} if system == first else grown([(by_size[first][n], one) for n, one in by_size[system].items()]),
            )
            for system in sizes
            if system in found
        ],
    )


def _above_idle(row: Row, idle_cores: float) -> float:
    return max(row.cpu_ms.median - 1000 * idle_cores / row.rate.median, 0.0)
