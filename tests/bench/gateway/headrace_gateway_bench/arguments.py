"""The options of `make bench-gateway`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from headrace_gateway_bench.measuring import GatewayPlan
from headrace_gateway_bench.option_types import names_of, seconds, whole
from headrace_gateway_bench.systems import SYSTEMS


def parse(arguments: Sequence[str] | None, description: str) -> tuple[GatewayPlan, Path]:
    """What to measure, and where the JSON goes. Prints what is wrong and exits where something is."""
    parser = argparse.ArgumentParser(
        prog="make bench-gateway", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=whole, default=3, help="rounds over everything (default 3)")
    parser.add_argument("--seconds", type=seconds, default=8.0, help="length of a window (default 8)")
    parser.add_argument(
        "--callers", type=_numbers, default=(1, 16, 64, 256), metavar="N,N", help="callers (default 1,16,64,256)"
    )
    parser.add_argument(
        "--systems",
        type=names_of(SYSTEMS),
        default=tuple(SYSTEMS),
        metavar="NAME,NAME",
        help=f"which, in the order of their first turns: {', '.join(SYSTEMS)} (default: all that can run here)",
    )
    parser.add_argument(
        "--warm-up", type=seconds, default=3.0, help="seconds of the same load before each window (default 3)"
    )
    parser.add_argument(
        "--first-warm-up", type=seconds, default=40.0, help="seconds of load before the first round (default 40)"
    )
    parser.add_argument("--output", type=Path, default=Path("bench-results/gateway.json"), help="where the JSON goes")
    options = parser.parse_args(arguments)
    plan = GatewayPlan(
        systems=options.systems,
        callers=options.callers,
        rounds=options.rounds,
        seconds=options.seconds,
        warm_up_seconds=options.warm_up,
        first_seconds=options.first_warm_up,
    )
    return plan, options.output


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(whole(part) for part in text.split(",")))
