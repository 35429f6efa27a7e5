"""The options of `make bench-overload` and of `make soak`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from headrace_gateway_bench.option_types import seconds, whole

from headrace_overload_bench.arrivals import SHARE
from headrace_overload_bench.measuring import OverloadPlan
from headrace_overload_bench.peers import LITELLM
from headrace_overload_bench.platform import PLATFORM, Models
from headrace_overload_bench.soaking import SoakPlan

SYSTEMS: Final = (PLATFORM, LITELLM)


def parse(arguments: Sequence[str] | None, description: str) -> tuple[OverloadPlan, Path, Path]:
    """What to measure, where the JSON goes, and where the plots. Prints what is wrong and exits where something is."""
    parser = _parser("make bench-overload", description)
    parser.add_argument(
        "--systems", type=_systems, default=SYSTEMS, metavar="NAME,NAME",
        help=f"what to measure (default {','.join(SYSTEMS)})",
    )  # fmt: skip
    parser.add_argument(
        "--times", type=_times, default=(0.5, 1.0, 1.5, 3.0, 10.0), metavar="N,N",
        help="how many times what the models can do, of each step (default 0.5,1,1.5,3,10)",
    )  # fmt: skip
    parser.add_argument("--seconds", type=seconds, default=60.0, help="length of each step's window (default 60)")
    parser.add_argument("--seed", type=int, default=1, help="of the times of arrival (default 1)")
    parser.add_argument("--output", type=Path, default=Path("bench-results/overload.json"), help="where the JSON goes")
    options = parser.parse_args(arguments)
    # A thousandth, since 9 times 0.05 is a little more than 0.45.
    if min(options.times) < (options.tenants - 1) * SHARE - 0.001:
        parser.error("argument --times: the tenants that are not greedy ask for more than that")
    plan = OverloadPlan(
        systems=options.systems,
        times=options.times,
        tenants=options.tenants,
        models=Models(options.slots, options.tokens),
        seconds=options.seconds,
        deadline_seconds=options.deadline,
        first_seconds=options.first_warm_up,
        reading_seconds=options.readings,
        seed=options.seed,
    )
    return plan, options.output, options.plots


def parse_soak(arguments: Sequence[str] | None, description: str) -> tuple[SoakPlan, Path, Path]:
    """As `parse`, for a soak."""
    parser = _parser("make soak", description)
    parser.add_argument("--minutes", type=_minutes, default=30.0, help="how long (default 30)")
    parser.add_argument(
        "--after", type=_minutes, help="minutes at the beginning that do not count (default 5, at most a third)"
    )
    parser.add_argument("--times", type=float, default=0.5, help="times what the models can do (default 0.5)")
    parser.add_argument("--output", type=Path, default=Path("bench-results/soak.json"), help="where the JSON goes")
    options = parser.parse_args(arguments)
    after = min(5.0, options.minutes / 3) if options.after is None else options.after
    if after >= options.minutes:
        parser.error("argument --after: nothing is left that counts")
    if not 0 < options.times <= 1:
        parser.error("argument --times: must be more than 0 and at most 1")
    plan = SoakPlan(
        minutes=options.minutes,
        after_minutes=after,
        times=options.times,
        tenants=options.tenants,
        models=Models(options.slots, options.tokens),
        deadline_seconds=options.deadline,
        first_seconds=options.first_warm_up,
        reading_seconds=options.readings,
    )
    return plan, options.output, options.plots


def _parser(name: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=name, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tenants", type=_several, default=10, help="tenants of equal weight (default 10)")
    parser.add_argument("--slots", type=whole, default=4, help="calls at a time of the simulated node (default 4)")
    parser.add_argument("--tokens", type=whole, default=10, help="of an answer on average, at 25 a second (default 10)")
    parser.add_argument("--deadline", type=seconds, default=10.0, help="seconds that a request has (default 10)")
    parser.add_argument(
        "--first-warm-up", type=seconds, default=40.0, help="seconds of load before the first step (default 40)"
    )
    parser.add_argument("--readings", type=seconds, default=2.0, help="seconds between readings of memory (default 2)")
    parser.add_argument(
        "--plots", type=Path, default=Path("docs/plots"), help="folder of the SVG files (default docs/plots)"
    )
    return parser


def _times(text: str) -> tuple[float, ...]:
    times = tuple(float(part) for part in text.split(","))
    if list(times) != sorted(set(times)) or times[0] <= 0:
        raise argparse.ArgumentTypeError("must be numbers above 0, smallest first")
    return times


def _systems(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if len(set(names)) < len(names) or not set(names) <= set(SYSTEMS):
        raise argparse.ArgumentTypeError(f"must be some of {','.join(SYSTEMS)}")
    return names


def _several(text: str) -> int:
    number = int(text)
    if number < 2:
        raise argparse.ArgumentTypeError("must be at least 2")
    return number


def _minutes(text: str) -> float:
    number = float(text)
    if not 0 < number <= 7 * 24 * 60:
        raise argparse.ArgumentTypeError("must be more than 0 and at most a week")
    return number
