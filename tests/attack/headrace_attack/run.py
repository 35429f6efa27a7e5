"""One attack after another on one platform."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import aiohttp
from headrace_testing.up import RunningStack

from headrace_attack.cancelling import forged_cancellations
from headrace_attack.cloud_worker import taken_over_cloud_worker
from headrace_attack.cross_tenant import cross_tenant
from headrace_attack.forging import forged_settings, hostile_schemas, lowered_privacy, rights_of_users
from headrace_attack.holding import filling, revocation, starvation, unread_feeds
from headrace_attack.keyless import inflating_bodies, not_http, unfinished_requests
from headrace_attack.mutated_requests import mutated_requests
from headrace_attack.records import foreign_cancellations, forged_submissions, mutated_records
from headrace_attack.report import Outcome
from headrace_attack.victims import Caller
from headrace_attack.watch import Watch


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is tried."""

    cross_tenant: int
    requests: int
    records: int
    tenants: int
    slow: bool
    """Whether attacks run that have to wait for time limits."""


FULL: Final = Extent(cross_tenant=11_000, requests=75_000, records=26_000, tenants=3, slow=True)
SHORT: Final = Extent(cross_tenant=500, requests=2_000, records=1_000, tenants=1, slow=False)

_Attack = Callable[[], Awaitable[Outcome | list[Outcome]]]


async def attack(
    stack: RunningStack,
    extent: Extent,
    chance: random.Random,
    say: Callable[[str], None],
    *,
    only: str = "",
) -> list[Outcome]:
    """Run the attacks, all of them or those whose name contains `only`, and say what each is."""
    watch = Watch(stack)
    outcomes: list[Outcome] = []
    async with aiohttp.ClientSession() as session:
        caller = Caller(stack, session)
        say("making tenants")
        attackers = [await caller.tenant(f"attacker-{number}") for number in range(2)]
        victims = [await caller.victim(f"victim-{number}") for number in range(extent.tenants)]
        heavy = await caller.tenant("heavy")
        floor = await caller.tenant("demanding", ["tasks", "preferences"])
        attacks: dict[str, _Attack] = {
            "inflating bodies": lambda: inflating_bodies(stack),
            "malformed HTTP": lambda: not_http(stack),
            "another tenant": lambda: cross_tenant(stack, caller, attackers, victims, extent.cross_tenant, chance),
            "foreign records": lambda: foreign_cancellations(stack, caller, attackers, victims),
            "another tenant's name": lambda: forged_submissions(stack, "named"),
            "forged cancellations": lambda: forged_cancellations(stack, caller, attackers, victims),
            "mutated requests": lambda: mutated_requests(stack, attackers[0], extent.requests, chance),
            "mutated records": lambda: mutated_records(stack, caller, attackers[0], extent.records, chance),
            "revocation": lambda: revocation(stack, caller, caller.tenant),
            "a cloud worker that was taken over": lambda: taken_over_cloud_worker(stack, caller, victims[0]),
            "forged keys and preferences": lambda: forged_settings(stack, caller, victims[0]),
            "hostile schemas": lambda: hostile_schemas(stack, caller, attackers[1]),
            "lowering privacy": lambda: lowered_privacy(stack, caller, floor),
        }
        if extent.slow:
            attacks |= {
                "unfinished requests": lambda: unfinished_requests(stack),
                "unread feeds": lambda: unread_feeds(stack, caller, attackers[1]),
                "skills without end": lambda: filling(stack, attackers[0], 600),
                "heavy requests": lambda: starvation(stack, heavy, victims[0]),
            }
        if stack.secure:
            # Last, since users who may change topics do.
            attacks["rights of every Kafka user"] = lambda: rights_of_users(stack)
        for name, run in attacks.items():
            if only not in name:
                continue
            say(name)
            watched = Outcome(name)
            async with watch.over(watched):
                done = await run()
            of_attack = done if isinstance(done, list) else [done]
            # What was seen of the services meanwhile belongs to all of the attack; it is told with the first.
            of_attack[0].hangs += watched.hangs
            of_attack[0].through += watched.through
            of_attack[0].note = "; ".join(part for part in (of_attack[0].note, watched.note) if part)
            outcomes += of_attack
    outcomes.append(_tracebacks(stack))
    return outcomes


def _tracebacks(stack: RunningStack) -> Outcome:
    """What the services' logs say that nobody foresaw."""
    outcome = Outcome("tracebacks in the logs")
    for name in stack.ops_urls:
        for line in stack.log(name).splitlines():
            if "Traceback (most recent call last)" in line:
                outcome.count(name)
                outcome.through.append(f"{name}: {line[-300:]}")
    return outcome
