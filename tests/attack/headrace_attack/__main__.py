"""``make attack``: attack a platform of its own; exit code 1 if anything gets through, hangs or is a 500."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time

from headrace_testing.up import launch_up, open_folder, stop_up, wait_until_up

from headrace_attack.report import closing_line, table
from headrace_attack.run import FULL, SHORT, attack


def main() -> int:
    parser = argparse.ArgumentParser(prog="make attack", description="Attack a running platform in every known way.")
    parser.add_argument("--seed", type=int, default=None, help="what is tried follows from it; random by default")
    parser.add_argument("--short", action="store_true", help="fewer attempts of each kind, as in make test")
    parser.add_argument("--only", default="", help="only attacks whose name contains this")
    parser.add_argument("--open", action="store_true", help="attack an open stack, where nobody logs in to Kafka")
    chosen = parser.parse_args()
    seed = random.SystemRandom().randrange(1_000_000) if chosen.seed is None else chosen.seed
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:6.1f}] {text}", flush=True)

    with open_folder("attack") as folder:
        say(f"starting the platform in {folder}")
        access = () if chosen.open else ("--secure",)
        process = launch_up(folder, *access, "--port-base", "0", "--simulate", "--simulator-speed", "4")
        try:
            stack = wait_until_up(folder, process)
            outcomes = asyncio.run(
                attack(stack, SHORT if chosen.short else FULL, random.Random(seed), say, only=chosen.only)
            )
        finally:
            stop_up(process)
    print(table(outcomes), flush=True)
    print(closing_line(outcomes, seed, (time.monotonic() - began) / 60), flush=True)
    return 0 if all(outcome.ok for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
