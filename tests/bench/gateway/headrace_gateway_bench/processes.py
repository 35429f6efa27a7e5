"""Processor time and memory of running processes, by the part of a system that they are of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import psutil


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a part's processes: resident, and proportional (pages shared by n processes count as an n-th)."""

    rss: int
    pss: int


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a system.

    Attributes:
        roots: First process of each part; its descendants are of the same part.
        apart: Parts of their own among descendants, by what their processes' names begin with.
    """

    roots: Mapping[str, int]
    apart: Mapping[str, str] = field(default_factory=dict)

    def cpu_seconds(self) -> dict[str, float]:
        """Processor time since the start of each part, ended child processes included.

        Raises:
            psutil.NoSuchProcess: a part's first process has ended.
        """
        seconds: defaultdict[str, float] = defaultdict(float)
        for part, process in self._processes():
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                if process.pid in self.roots.values():
                    raise
                continue
            # A process that has ended is in the time of the one that has waited for it.
            seconds[part] += times.user + times.system + times.children_user + times.children_system
        return dict(seconds)

    def memory(self) -> dict[str, Memory]:
        """Memory now. Where the system tells no proportional figure it is the resident one."""
        rss: defaultdict[str, int] = defaultdict(int)
        pss: defaultdict[str, int] = defaultdict(int)
        for part, process in self._processes():
            try:
                full = process.memory_full_info()
            except psutil.NoSuchProcess:
                continue
            rss[part] += full.rss
            pss[part] += getattr(full, "pss", full.rss)
        return {part: Memory(rss[part], pss[part]) for part in rss}

    def _processes(self) -> list[tuple[str, psutil.Process]]:
        roots = {psutil.Process(pid): part for part, pid in self.roots.items()}
        found: dict[psutil.Process, str] = dict(roots)
        for root, part in roots.items():
            for child in root.children(recursive=True):
                # One part may have started the others: the nearest first process above decides.
                if child not in roots and self._nearest(child, roots) == root:
                    found[child] = self._part_of(child, part)
        return [(part, process) for process, part in found.items()]

    @staticmethod
    def _nearest(process: psutil.Process, roots: Mapping[psutil.Process, str]) -> psutil.Process | None:
        try:
            return next((parent for parent in process.parents() if parent in roots), None)
        except psutil.NoSuchProcess:
            return None

    def _part_of(self, process: psutil.Process, otherwise: str) -> str:
        if not self.apart:
            return otherwise
        try:
            name = process.name()
        except psutil.NoSuchProcess:
            return otherwise
        return next((part for prefix, part in self.apart.items() if name.startswith(prefix)), otherwise)


def since(now: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """What each part has used between two readings: never less than nothing, even if a child has ended unwaited for."""
    return {part: max(seconds - before.get(part, 0.0), 0.0) for part, seconds in now.items()}


def machine_cpu_seconds() -> float:
    """Processor time of everything on the machine since its start."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - _counted_twice(times))


def _counted_twice(times: object) -> float:
    # Linux has the time of guests in that of users as well.
    return float(getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0))
