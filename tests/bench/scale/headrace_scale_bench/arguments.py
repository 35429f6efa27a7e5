"""The options of `make bench-scale`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from headrace_gateway_bench.option_types import names_of, seconds, whole

from headrace_scale_bench.measuring import DIMENSIONS, ScalePlan


def parse(arguments: Sequence[str] | None, description: str) -> tuple[ScalePlan, Path]:
    """What to measure, and where the JSON goes. Prints what is wrong and exits where something is."""
    parser = argparse.ArgumentParser(
        prog="make bench-scale", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=whole, default=5, help="rounds of each dimension (default 5)")
    parser.add_argument("--seconds", type=seconds, default=6.0, help="length of a window (default 6)")
    parser.add_argument(
        "--only", type=names_of(DIMENSIONS), default=DIMENSIONS, metavar="NAME,NAME", help=f"of {', '.join(DIMENSIONS)}"
    )
    parser.add_argument("--callers", type=whole, default=16, help="tasks in flight (default 16)")
    parser.add_argument(
        "--scales", type=_scales, default=((6, 1), (12, 2), (24, 4)), metavar="PARTITIONS:INSTANCES,...",
        help="partitions of the task topics, and routers and workers (default 6:1,12:2,24:4)",
    )  # fmt: skip
    for name, default, what in (
        ("agents", (100, 1_000, 10_000), "skill sessions that are open, and task sessions in turn"),
        ("tenants", (1, 1_000), "tenants that submit in turn"),
        ("history", (0, 1_000_000), "tasks that ended before"),
    ):
        text = ",".join(map(str, default))
        parser.add_argument(f"--{name}", type=_sizes, default=default, metavar="N,N", help=f"{what} (default {text})")
    parser.add_argument(
        "--warm-up", type=seconds, default=2.0, help="seconds of the same load before each window (default 2)"
    )
    parser.add_argument(
        "--first-tasks", type=whole, default=1_500, help="tasks of each new platform before (default 1,500)"
    )
    parser.add_argument("--output", type=Path, default=Path("bench-results/scale.json"), help="where the JSON goes")
    options = parser.parse_args(arguments)
    if options.tenants[0] < 1:
        parser.error("argument --tenants: somebody must submit")
    plan = ScalePlan(
        dimensions=options.only,
        scales=options.scales,
        agents=options.agents,
        tenants=options.tenants,
        history=options.history,
        callers=options.callers,
        rounds=options.rounds,
        seconds=options.seconds,
        warm_up_seconds=options.warm_up,
        first_tasks=options.first_tasks,
    )
    return plan, options.output


def _sizes(text: str) -> tuple[int, ...]:
    sizes = tuple(int(part) for part in text.split(","))
    if len(sizes) < 2 or sizes[0] < 0 or list(sizes) != sorted(set(sizes)):
        raise argparse.ArgumentTypeError("must be two or more numbers, smallest first")
    return sizes


def _scales(text: str) -> tuple[tuple[int, int], ...]:
    scales = []
    for part in text.split(","):
        partitions, _, instances = part.partition(":")
        scales.append((whole(partitions), whole(instances)))
    if len(scales) < 2 or any(partitions < instances for partitions, instances in scales):
        raise argparse.ArgumentTypeError("must be two or more like 12:2, with a partition for each instance")
    return tuple(scales)
