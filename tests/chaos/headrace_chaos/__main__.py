"""``make chaos MINUTES=… SEED=…``: a long run; exit code 1 on any violation."""

import argparse
import asyncio
import random
import signal
import sys
import time

from headrace_chaos.plan import Deck, acts, broker_deck, full_deck, short_deck
from headrace_chaos.platform import DOUBLED
from headrace_chaos.run import chaos

_LONGEST_MINUTES = 50.0
"""Replies are retained for an hour, and the journal is compacted after one: the checker needs to see everything."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make chaos", description="Kill parts of a platform under load, then check.")
    parser.add_argument("--minutes", type=float, default=5.0, help=f"length of the load, at most {_LONGEST_MINUTES:g}")
    parser.add_argument("--seed", type=int, default=None, help="the plan follows from it; a random one by default")
    parser.add_argument(
        "--brokers", type=int, choices=(1, 3), default=1,
        help="3: three Kafka brokers with three replicas of everything, and faults of theirs: kill -9 of one, of the "
        "active controller, of two and of all; one frozen, briefly or until others lead in its place; a partition "
        "without a leader for a minute; leaders moved; partitions reassigned; all restarted one after another",
    )  # fmt: skip
    parser.add_argument(
        "--add-partitions", action=argparse.BooleanOptionalAction, default=True,
        help="with three brokers: give the topics of tasks more partitions, two each time",
    )  # fmt: skip
    parser.add_argument("--rate", type=float, default=None, help="tasks per second; default 25, with three brokers 12")
    parser.add_argument("--short", action="store_true", help="each kind of fault once, as in make test")
    parser.add_argument("--secure", action="store_true", help="with logins and permissions (`headrace up --secure`)")
    parser.add_argument("--keep", action="store_true", help="keep data and logs even if nothing is violated")
    chosen = parser.parse_args()
    if not 0 < chosen.minutes <= _LONGEST_MINUTES:
        parser.error(f"--minutes must be above 0 and at most {_LONGEST_MINUTES:g}")
    rate = chosen.rate or (25.0 if chosen.brokers == 1 else 12.0)
    seed = random.SystemRandom().randrange(1_000_000) if chosen.seed is None else chosen.seed
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:6.1f}] {text}", flush=True)

    def deck(*, disk: bool) -> Deck:
        if chosen.brokers > 1:
            return broker_deck(DOUBLED, partitions=chosen.add_partitions)
        return (short_deck if chosen.short else full_deck)(DOUBLED, disk=disk)

    async def run() -> int:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        result = await chaos(
            seed=seed,
            deal=lambda disk: acts(seed, deck(disk=disk), again=not chosen.short),
            seconds=None if chosen.short else chosen.minutes * 60,
            rate=rate,
            say=say,
            brokers=chosen.brokers,
            secure=chosen.secure,
            keep=chosen.keep,
        )
        print(result.line, flush=True)
        return 0 if result.ok else 1

    return asyncio.run(run())


if __name__ == "__main__":
    sys.exit(main())
