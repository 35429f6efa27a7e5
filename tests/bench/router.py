"""How many routing decisions a core makes: the pure function alone, with 200 candidates and 1,000 tenants.

A decision is what the router does with one event: a submitted task is routed, and its attempt's end finishes it.
Encoding, the journal and Kafka are left out. The ways alternate in each round:

listed       the candidates as the policy lists them
cheapest, fastest, balanced   put in order by a strategy; the figures of all are compared
narrowed     as cheapest, with `ignore`, `max_price` and `min_throughput` of the task's own
tenants      as listed, each tenant with a policy of its own
moving       as balanced, and a node reports anew every 5 ms, so that what was compared is compared anew
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from headrace_contracts.content import plain
from headrace_contracts.events import (
    AttemptFinished,
    Message,
    ModelObserved,
    ModelStatus,
    NodeStatus,
    Outcome,
    Place,
    PolicyPublished,
    Privacy,
    Routing,
    Sampling,
    TaskSubmitted,
    Usage,
)
from headrace_contracts.ids import attempt_id
from headrace_models.prices import PriceBook, load_price_book
from headrace_router.adapters.policy_file import parse_policy
from headrace_router.adapters.routing_view import RoutingView
from headrace_router.decide.machine import decide
from headrace_router.decide.model import AttemptEnded, Decision, NoOtherTasks, Submitted
from headrace_router.decide.revisions import revision_key
from rich.console import Console
from rich.table import Table

CANDIDATES, TENANTS, ROLES = 200, 1_000, 20
NOW = 1_790_000_000_000


@dataclass(frozen=True, slots=True)
class Rate:
    """Decisions a second of processor time, of one way in one round."""

    way: str
    per_second: float


def policy_text(strategy: str) -> str:
    """Twenty roles; each lists two local models, and all of them the ladder of the clouds."""
    models = [f"cloud-{n % 10}/model-{n}" for n in range(CANDIDATES - 2)]
    return json.dumps({
        "defaults": {"role": "role-0", "privacy_level": "low"},
        "deadlines": {"default": {"interactive": 120_000, "batch": 3_600_000}},
        "attempts": {"timeout": {"interactive": 45_000, "batch": 1_500_000}},
        "strategy": strategy,
        "providers": {"ollama": {"place": "local"}, **{f"cloud-{n}": {"place": "cloud"} for n in range(10)}},
        "ladder": models,
        "roles": {f"role-{n}": {"models": ["ollama/small:1b", f"ollama/own-{n}:7b"]} for n in range(ROLES)},
    })  # fmt: skip


def fleet() -> Iterator[NodeStatus]:
    """Eight local nodes and ten providers, with what their workers have seen of each model."""
    rng = random.Random(1)

    def status(name: str, models: Sequence[str], place: Place, provider: str) -> NodeStatus:
        seen = [
            ModelStatus(
                name=model,
                context_tokens=131_072,
                observed=ModelObserved(
                    calls=50, first_output_p50_ms=rng.uniform(50, 900), first_output_p95_ms=2_000.0,
                    tokens_per_second_p50=rng.uniform(10, 400), tokens_per_second_p5=8.0,
                ),
            )
            for model in models
        ]  # fmt: skip
        return NodeStatus(
            node=name, place=place, provider=provider, healthy=True, models=tuple(seen), slots=8, busy=rng.randrange(8),
            reported_at=NOW, valid_for_ms=10**12,
        )  # fmt: skip

    for n in range(8):
        yield status(f"node-{n}", ["small:1b", *(f"own-{r}:7b" for r in range(ROLES))], Place.LOCAL, "ollama")
    for n in range(10):
        models = [f"model-{m}" for m in range(CANDIDATES - 2) if m % 10 == n]
        yield status(f"cloud-{n}", models, Place.CLOUD, f"cloud-{n}")


def priced(book: PriceBook) -> PriceBook:
    """The price book with prices of these models."""
    known = list(book.providers["groq"].values()) + list(book.providers["anthropic"].values())
    clouds = {
        f"cloud-{n}": {f"model-{m}": known[m % len(known)] for m in range(CANDIDATES - 2) if m % 10 == n}
        for n in range(10)
    }
    return replace(book, providers={**book.providers, **clouds})


def tasks(count: int, routing: Routing | None) -> Sequence[TaskSubmitted]:
    """Tasks of all tenants and roles, with prompts of 50 to 5,000 characters."""
    rng = random.Random(2)
    return [
        TaskSubmitted(
            task_id=f"0199b9d0-0000-7000-8000-{n:012}", tenant=f"tenant-{n % TENANTS}", role=f"role-{n % ROLES}",
            messages=(Message(role="user", content=plain(f"{n} " + "x" * rng.randrange(50, 5_000))),),
            sampling=Sampling(max_output_tokens=500), privacy=Privacy.PUBLIC, routing=routing, submitted_at=NOW,
        )
        for n in range(count)
    ]  # fmt: skip


def end_of(task: TaskSubmitted, provider: str, model: str) -> AttemptFinished:
    return AttemptFinished(
        attempt_id=attempt_id(task.task_id, 1), task_id=task.task_id, tenant=task.tenant, number=1, home_partition=0,
        execution_id="e1", outcome=Outcome.ANSWERED, content=plain("An answer."), finish_reason="stop",
        provider=provider, model=model, usage=Usage(input_tokens=400, output_tokens=200), finished_at=NOW + 900,
    )  # fmt: skip


def view_of(strategy: str, *, tenants: bool) -> RoutingView:
    view = RoutingView(parse_policy(policy_text(strategy), "bench"), priced(load_price_book()), lambda: NOW + 1_000)
    for status in fleet():
        view.node_changed(status.node, status)
    if tenants:
        for n in range(TENANTS):
            text = json.dumps({"max_output_tokens": 100 + n, "roles": {"role-1": {"lane": "batch"}}})
            published = PolicyPublished(
                scope=f"tenant/tenant-{n}", revision=1, version="v1", text=text, published_at=NOW
            )  # fmt: skip
            view.policy_changed(revision_key(published), published)
    return view


NARROW = Routing(ignore=("cloud-3",), max_output_price=20_000_000_000, min_throughput=20.0, strategy="cheapest")
WAYS: dict[str, tuple[str, Routing | None, bool, bool]] = {
    "listed": ("listed", None, False, False),
    "cheapest": ("cheapest", None, False, False),
    "fastest": ("fastest", None, False, False),
    "balanced": ("balanced", None, False, False),
    "narrowed": ("listed", NARROW, False, False),
    "tenants": ("listed", None, True, False),
    "moving": ("balanced", None, False, True),
}


def measure(way: str, count: int) -> Rate:
    """Route and finish `count` tasks."""
    strategy, routing, tenants, moving = WAYS[way]
    view, peers = view_of(strategy, tenants=tenants), NoOtherTasks()
    some, submitted = next(fleet()), tasks(count, routing)
    gc.collect()
    began, reported = time.process_time(), time.process_time()
    decisions = 0
    for task in submitted:
        if moving and (now := time.process_time()) - reported > 0.005:
            reported = now
            view.node_changed(some.node, replace(some, busy=decisions % 8))
        context = view.context(peers, task.tenant, task.user)
        routed = decide(None, Submitted(task, b"key", 0), context)
        assert isinstance(routed, Decision), routed
        attempt = routed.state.attempts[-1]
        event = AttemptEnded(end_of(task, attempt.provider, attempt.model), attempt.place)
        finished = decide(routed.state, event, view.context(peers, task.tenant, task.user))
        assert isinstance(finished, Decision), finished
        assert finished.state.result is not None
        decisions += 2
    return Rate(way, decisions / (time.process_time() - began))


def printed(rates: Sequence[Rate], console: Console) -> None:
    rows = Table(box=None, pad_edge=False)
    for column in ("candidates in the order of", "decisions/s a core", "least", "most"):
        rows.add_column(column, justify="left" if column.startswith("cand") else "right")
    for way in WAYS:
        found = [rate.per_second for rate in rates if rate.way == way]
        if found:
            rows.add_row(way, f"{statistics.median(found):,.0f}", f"{min(found):,.0f}", f"{max(found):,.0f}")
    console.print(rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=5_000, help="of each way in each round")
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--way", action="append", choices=WAYS)
    arguments = parser.parse_args()
    run: Callable[[str], Rate] = lambda way: measure(way, arguments.tasks)  # noqa: E731
    rates = [run(way) for _ in range(arguments.rounds) for way in arguments.way or WAYS]
    printed(rates, Console())
    if arguments.json:
        figures = [{"way": rate.way, "decisions_per_second": rate.per_second} for rate in rates]
        arguments.json.write_text(
            json.dumps({"candidates": CANDIDATES, "tenants": TENANTS, "rates": figures}, indent=1)
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
