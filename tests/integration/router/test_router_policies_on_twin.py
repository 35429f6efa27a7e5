"""A published policy counts from one recorded point of each journal on, whatever becomes of the router."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence

from headrace_contracts.events import (
    EntryKind,
    JournalEntry,
    PolicyPublished,
    Privacy,
    SwitchedOff,
    SwitchKind,
    TaskPhase,
)
from headrace_contracts.topics import TASKS_JOURNAL
from headrace_router.adapters.policy_file import policy_text
from headrace_router.decide.revisions import INSTALLATION, revision_key
from headrace_testing.router_twin import PREFIX, Router, Twin, now_ms
from headrace_testing.routing import task

SHIPPED = policy_text(None)[0]


def published(revision: int, text: str = SHIPPED, scope: str = INSTALLATION) -> tuple[str, PolicyPublished]:
    made = PolicyPublished(scope=scope, revision=revision, version=f"v{revision}", text=text, published_at=now_ms())
    return revision_key(made), made


def journals(twin: Twin) -> Mapping[int, Sequence[JournalEntry]]:
    """The entries of each partition, in order."""
    found: dict[int, list[JournalEntry]] = defaultdict(list)
    for record in twin.cluster.records(PREFIX + TASKS_JOURNAL.name):
        if record.value is not None:
            found[record.partition].append(twin.decode(JournalEntry, record))
    return found


def follow_what_is_said(entries: Sequence[JournalEntry]) -> int:
    """Checks that each decision is by the policy that the journal names before it; returns how often that changed."""
    said, changes = "", 0
    for entry in entries:
        if entry.kind in (EntryKind.EPOCH_START, EntryKind.CHECKPOINT):
            assert entry.policy_version
            changes += said not in ("", entry.policy_version)
            said = entry.policy_version
        elif entry.kind is EntryKind.DECISION:
            assert entry.policy_version == said.partition("+")[0]
    return changes


def shorter(most: int) -> str:
    return SHIPPED.replace("max_output_tokens: 4096", f"max_output_tokens: {most}")


async def test_each_decision_is_by_the_policy_that_its_journal_names() -> None:
    async with Twin() as twin:
        twin.work()
        router = twin.router("r1", tick_seconds=60)
        await twin.submit(task())
        await twin.until_completed([task()])
        for round_number in range(1, 4):
            tasks = [task(f"0199b9d0-0000-7000-8000-{round_number:04}{n:08}", f"{round_number} {n}") for n in range(20)]
            sending = asyncio.create_task(twin.submit(*tasks))
            await asyncio.sleep(0.003)
            router.world.policy_changed(*published(round_number, shorter(round_number)))
            await sending
            await twin.until_completed(tasks)
        found = journals(twin)
        assert [follow_what_is_said(entries) for entries in found.values()] == [3] * len(found)


async def test_the_point_is_recorded_without_any_task_and_after_a_takeover() -> None:
    async with Twin() as twin:
        twin.work()
        first = twin.router("r1")
        await twin.submit(task())
        await twin.until_completed([task()])
        first.world.policy_changed(*published(1, shorter(1)))
        version = first.world.policy_in_use

        def all_say_so() -> bool:
            return all(entries[-1].policy_version == version for entries in journals(twin).values())

        await twin.until(all_say_so)
        await first.kill()
        second = twin.router("r2")
        second.world.policy_changed(*published(1, shorter(1)))
        other = task("0199b9d0-0000-7000-8000-000000000077", "another")
        await twin.submit(other)
        await twin.until_completed([other])
        for entries in journals(twin).values():
            follow_what_is_said(entries)


def switch(router: Router, name: str, *, off: bool) -> None:
    made = SwitchedOff(kind=SwitchKind.PROVIDER, name=name, reason="it burns", switched_at=now_ms())
    router.world.switch_changed(f"provider/{name}", made if off else None)


async def test_a_waiting_task_goes_on_when_the_switch_is_on_again() -> None:
    async with Twin() as twin:
        twin.work()
        router = twin.router("r1")
        switch(router, "ollama", off=True)
        waiting = task(privacy=Privacy.SENSITIVE)
        await twin.submit(waiting)

        def waits() -> bool:
            states = [entry.state for entries in journals(twin).values() for entry in entries if entry.state]
            return any(state.phase is TaskPhase.WAITING for state in states)

        await twin.until(waits)
        assert not twin.requests
        switch(router, "ollama", off=False)
        await twin.until_completed([waiting], 5)


async def test_a_tenants_policy_is_its_own() -> None:
    async with Twin() as twin:
        twin.work()
        router = twin.router("r1")
        router.world.policy_changed(*published(1, "defaults: {mode: local}\nladder: []\n", "tenant/acme"))
        ours = task("0199b9d0-0000-7000-8000-000000000001", "x", privacy=Privacy.PUBLIC)
        theirs = task("0199b9d0-0000-7000-8000-000000000002", "x", tenant="other", privacy=Privacy.PUBLIC)
        await twin.submit(ours, theirs)
        await twin.until_completed([ours, theirs])
        versions = {
            entry.state.task.tenant: entry.policy_version
            for entries in journals(twin).values()
            for entry in entries
            if entry.state is not None and entry.state.task is not None
        }
        assert versions["other"] == twin.policy.version != versions["acme"]
