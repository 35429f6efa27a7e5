"""What the caches save a product with 10,000 users: two months of 100,000 requests a day, at the machine's speed.

A fifth of all requests ask something new, as 600,000 calls for 3,000,000 requests say. The others repeat one of the
last 30 days, each as likely as any: what was asked often is asked more often (a Yule-Simon process), and nothing else
is assumed. So four fifths is what a cache without bounds would serve in its first 30 days; after that answers age, and
are asked for anew.

Partitions, their caches and the limits of these are the router's own (`PartitionTasks`); of the stored answers, which
are rows in Postgres, the same bounds hold in memory here. A call is a search and an answer, at the price book's prices.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))
sys.path.insert(0, str(Path(__file__).resolve().parent / "overload"))
from headrace_contracts.content import plain
from headrace_contracts.events import Privacy, ServedFrom, TaskCompleted, TaskPhase, TaskState, TaskStatus
from headrace_models.ports import CallUsage
from headrace_models.prices import cost, load_price_book
from headrace_overload_bench.plots import line_chart
from headrace_router.adapters.answer_store import BESIDE_VALUE_BYTES
from headrace_router.adapters.policy_file import load_policy
from headrace_router.decide.policy import CacheLimits
from headrace_router.decide.tasks import PartitionTasks
from headrace_router.settings import RouterSettings

DAY_MS: Final = 86_400_000
NEW: Final = 0.2
PARTITIONS: Final = 6
ANSWER_BYTES: Final = 1_500
"""A contact as JSON; stored with its provider, model and times."""
SEARCH: Final = ("tavily", "tavily-search", CallUsage(input_tokens=0, output_tokens=0, searches=1))
ANALYSIS: Final = ("groq", "llama-3.3-70b-versatile", CallUsage(input_tokens=2_500, output_tokens=400))


@dataclass
class Stored:
    """The rows of one tenant: bounds as `adapters.answer_store` holds them."""

    rows: int
    bytes: int
    at: OrderedDict[int, int] = field(default_factory=OrderedDict)

    def fresh(self, asked: int, now: int, ttl: int) -> bool:
        at = self.at.get(asked)
        return at is not None and now < at + ttl

    def keep(self, asked: int, now: int) -> None:
        self.at.pop(asked, None)
        self.at[asked] = now
        row = ANSWER_BYTES + BESIDE_VALUE_BYTES
        if len(self.at) > self.rows or len(self.at) * row > self.bytes:
            most = round(0.95 * min(self.rows, self.bytes // row))
            while len(self.at) > most:
                self.at.popitem(last=False)


@dataclass(frozen=True, slots=True)
class Way:
    """Which caches there are."""

    name: str
    cache: CacheLimits
    stored: tuple[int, int] | None


def asked_for(days: int, daily: int, seed: int) -> Iterator[tuple[int, int, int]]:
    """Day, time in milliseconds, and what is asked for, by number."""
    dice = random.Random(seed)
    uniform, below = dice.random, dice.randrange
    earlier = array("i")
    fresh = 0
    for number in range(days * daily):
        if not earlier or uniform() < NEW:
            asked, fresh = fresh, fresh + 1
        else:
            asked = earlier[below(max(0, number - 30 * daily), number)]
        earlier.append(asked)
        yield number // daily, number * DAY_MS // daily, asked


def run(way: Way, days: int, daily: int, seed: int) -> Sequence[Mapping[str, int]]:
    """Requests and what served them, day by day."""
    tasks = [PartitionTasks(way.cache, 10) for _ in range(PARTITIONS)]
    stored = None if way.stored is None else Stored(*way.stored)
    end = TaskCompleted(
        task_id="", tenant="product", privacy=Privacy.INTERNAL, status=TaskStatus.SUCCEEDED,
        answer=plain("x" * ANSWER_BYTES), finish_reason="stop", served_from=ServedFrom.ATTEMPT,
        submitted_at=0, completed_at=0,
    )  # fmt: skip
    found = [dict.fromkeys(("requests", "memory", "stored", "calls"), 0) for _ in range(days)]
    for day, now, asked in asked_for(days, daily, seed):
        counts, digest = found[day], f"{asked:x}"
        partition = tasks[(asked * 2_654_435_761 >> 9) % PARTITIONS]
        counts["requests"] += 1
        if partition.equal_to(digest, now).answer is not None:
            counts["memory"] += 1
        elif stored is not None and stored.fresh(asked, now, way.cache.stored_ttl):
            counts["stored"] += 1
        else:
            counts["calls"] += 1
            state = TaskState(
                phase=TaskPhase.FINISHED, digest=digest, route_key=b"", home_partition=0,
                result=replace(end, completed_at=now),
            )  # fmt: skip
            partition.apply(digest, state)
            if stored is not None:
                stored.keep(asked, now)
    return found


def call_cost() -> float:
    """Dollars for one call."""
    book = load_price_book()
    return sum(cost(usage, book.price(provider, model)) for provider, model, usage in (SEARCH, ANALYSIS)) / 1e9


def ways() -> Sequence[Way]:
    """The caches to compare, with the limits that ship."""
    shipped = load_policy(None).cache
    fields = RouterSettings.model_fields
    rows = int(fields["stored_answers_per_tenant"].default)
    size = int(fields["stored_answer_bytes_per_tenant"].default)
    return (
        Way("in memory", shipped, None),
        Way("in memory, and stored for 30 days", shipped, (rows, size)),
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make bench-cache ARGS=...", description=__doc__)
    parser.add_argument("--days", type=int, default=60)
    parser.add_argument("--daily", type=int, default=100_000, help="requests a day (100000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plots", type=Path, help="write the plot to this folder")
    chosen = parser.parse_args(argv)
    dollars, series, documents = call_cost(), {}, []
    print(f"A call costs {dollars:.5f} dollars. Months of 30 days; requests served, calls made, dollars saved.\n")
    print("| caches | month | served | of it in memory | calls | saved |\n|---|---|---|---|---|---|")
    for way in ways():
        began = time.process_time()
        days = run(way, chosen.days, chosen.daily, chosen.seed)
        took = time.process_time() - began
        for month, first in enumerate(range(0, chosen.days, 30), start=1):
            total = {name: sum(day[name] for day in days[first : first + 30]) for name in days[0]}
            served = total["memory"] + total["stored"]
            shares = f"{served / total['requests']:.1%} | {total['memory'] / total['requests']:.1%}"
            print(f"| {way.name} | {month} | {shares} | {total['calls']:,} | {served * dollars:,.0f} $ |")
        series[way.name] = [(float(n), 100 * (1 - day["calls"] / day["requests"])) for n, day in enumerate(days, 1)]
        documents.append({"caches": way.name, "processor_seconds": round(took, 1), "days": days})
        print(f"  {way.name}: {took:.0f} s of processor time", file=sys.stderr)
    if chosen.json is not None:
        chosen.json.parent.mkdir(parents=True, exist_ok=True)
        chosen.json.write_text(json.dumps({"call_dollars": dollars, "ways": documents}) + "\n", encoding="utf-8")
    if chosen.plots is not None:
        chosen.plots.mkdir(parents=True, exist_ok=True)
        title = "Requests that caches answer, of 3,000,000 a month"
        drawn = line_chart(title, "day", "% of the day's requests", series, dots=False)
        (chosen.plots / "cache-months.svg").write_text(drawn, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
