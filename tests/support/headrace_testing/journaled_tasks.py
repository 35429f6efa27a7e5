"""Journal entries of tasks as the router makes them, to be written by the thousand with other ids and places."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from headrace_contracts.codec import Codec
from headrace_contracts.content import plain
from headrace_contracts.events import EntryKind, InputEvent, JournalEntry, Outcome, Position
from headrace_contracts.ids import new_id
from headrace_contracts.topics import TASKS_JOURNAL
from headrace_router.adapters.policy_file import load_policy
from headrace_router.decide.model import Decision
from headrace_streams.errors import Overloaded
from headrace_streams.ports import Log
from headrace_streams.publishing import Publisher
from headrace_streams.records import ProducerRecord

from headrace_testing.routing import Desk, task

OWNER = "router-before"
"""The router that wrote them."""
_WORDS = ("river", "weir", "intake", "flow", "sluice", "gauge", "bank", "level", "drought", "spring", "channel", "silt")


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class EntryTemplate:
    """An entry as Avro data, to be written again and again with another task and place."""

    FULL_NAME: ClassVar[str] = JournalEntry.FULL_NAME

    data: dict[str, Any]

    def to_avro(self, named: bool = False) -> dict[str, Any]:
        return self.data

    @classmethod
    def from_avro(cls, data: dict[str, Any]) -> EntryTemplate:
        return cls(data)


def _text(size: int, dice: random.Random) -> str:
    words: list[str] = []
    while sum(map(len, words)) + len(words) < size:
        words.append(dice.choice(_WORDS))
    return " ".join(words)


def entry_templates(
    count: int, dice: random.Random, positions: Sequence[Position] = ()
) -> tuple[list[EntryTemplate], list[EntryTemplate]]:
    """Entries of tasks that were dispatched, and of the same tasks at their end."""
    begun, ended = [], []

    def entry(decision: Decision, cause: str) -> EntryTemplate:
        # No recovery waits for what was published long ago, and no timer fires while we measure.
        state = replace(decision.state, wake_at=None if decision.state.wake_at is None else now_ms() + 86_400_000)
        made = JournalEntry(
            kind=EntryKind.DECISION,
            task_id=new_id(),
            cause=cause,
            input=InputEvent(topic="tasks.submitted", partition=0, offset=1_234_567, event_id=new_id()),
            positions=tuple(positions),
            state=state,
            commands=decision.commands,
            rejected=decision.rejected,
            policy_version="0123456789ab",
            owner=OWNER,
            decided_at=now_ms(),
        )
        return EntryTemplate(made.to_avro(named=True))

    policy = load_policy(None)
    for _ in range(count):
        desk = Desk(now=now_ms(), policy=policy)
        desk.submit(
            task(
                new_id(), _text(dice.randint(300, 1_100), dice), role=dice.choice(["research", "devops", None]),
                reply_partition=1, submitted_at=desk.now, deadline_at=desk.now + 86_400_000,
            )
        )  # fmt: skip
        begun.append(entry(desk.decisions[-1], "submitted"))
        desk.end(Outcome.ANSWERED, content=plain(_text(dice.randint(100, 800), dice)))
        ended.append(entry(desk.decisions[-1], "attempt_finished"))
    return begun, ended


def _in_order(live: int, finished: int, dice: random.Random) -> Iterator[bool]:
    """For each task whether it is live; evenly mixed."""
    left, total = live, live + finished
    for remaining in range(total, 0, -1):
        is_live = dice.random() * remaining < left
        left -= is_live
        yield is_live


async def write_journal(
    log: Log,
    codec: Codec,
    partition: int,
    live: int,
    finished: int,
    *,
    whole: bool = False,
    positions: Sequence[Position] = (),
    seed: int = 7,
) -> tuple[int, float]:
    """Write one journal partition of a single owner; returns the number of entries, and their mean size in bytes.

    Args:
        live, finished: Number of tasks, evenly mixed.
        whole: All entries of a task; otherwise only the newest one, as compaction leaves it.
        positions: How far each entry says that the inputs are consumed.
    """
    dice = random.Random(seed + partition)
    begun, ended = entry_templates(200, dice, positions)
    producer = log.producer()
    publisher = Publisher(producer, codec, "bench")
    topic = codec.topic_prefix + TASKS_JOURNAL.name
    epoch_start = JournalEntry(kind=EntryKind.EPOCH_START, owner=OWNER, decided_at=now_ms())
    await publisher.send_record(ProducerRecord(topic, codec.encode(TASKS_JOURNAL, epoch_start), b"barrier", partition))
    written = size = 0

    def put(template: EntryTemplate, task_id: str, is_live: bool) -> ProducerRecord:
        nonlocal written, size
        written += 1
        data = template.data
        state = data["state"][1]
        state.update(digest=dice.randbytes(32).hex(), home_partition=partition)
        data |= {
            "task_id": task_id, "generation": 0, "sequence": written,
            "acted_offset": written, "completed_offset": written,
        }  # fmt: skip
        value = codec.encode(TASKS_JOURNAL, template)
        size += len(value)
        headers = (
            ("ce_id", f"journal/{partition}/0/{written}".encode()), ("ce_type", JournalEntry.FULL_NAME.encode()),
            ("ce_source", b"headrace/router/router-1"), ("ce_time", b"2026-01-01T00:00:00.000Z"),
            ("ce_specversion", b"1.0"), ("ce_subject", task_id.encode()), ("tenant", b"acme"),
        )  # fmt: skip
        return ProducerRecord(topic, value, task_id.encode(), partition, headers)

    for number, is_live in enumerate(_in_order(live, finished, dice)):
        task_id = f"0199b9d0-{number >> 16 & 0xFFFF:04x}-7000-{number & 0xFFFF:04x}-{dice.getrandbits(48):012x}"
        which = number % len(begun)
        entries = []
        if whole or is_live:
            entries.append(put(begun[which], task_id, is_live))
        if not is_live:
            entries.append(put(ended[which], task_id, is_live))
        for record in entries:
            while True:
                try:
                    producer.send(record)
                    break
                except Overloaded:
                    await asyncio.sleep(0.05)
        if number % 2_000 == 0:
            await asyncio.sleep(0)
    await producer.close()
    return written, size / max(1, written)
