"""Runs days, each in a process of its own."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from headrace_runtime.logging import configure

from headrace_testing.fleet_day.figures import DayFigures, figures
from headrace_testing.fleet_day.plan import draw_day, draw_half_hour
from headrace_testing.fleet_day.promises import violations
from headrace_testing.fleet_day.world import FleetDay


@dataclass(frozen=True, slots=True)
class WantedDay:
    """A day to run: see `draw_day`. `short` stands for half an hour of few machines."""

    seed: int
    machines: int
    load: float
    restarts: int
    short: bool


def run_day(wanted: WantedDay) -> tuple[DayFigures, Sequence[str], float]:
    """Its figures, what promises were not kept, and the seconds of processor time that it took."""
    configure(service="fleet-day", instance="here", level="error", stream=sys.stderr)
    began = time.process_time()
    if wanted.short:
        plan = draw_half_hour(wanted.seed, load=wanted.load)
    else:
        plan = draw_day(wanted.seed, machines=wanted.machines, load=wanted.load, restarts=wanted.restarts)
    result = FleetDay(plan).run()
    return figures(result), violations(result), time.process_time() - began
