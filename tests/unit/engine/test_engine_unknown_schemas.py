"""A partition full of records whose schemas nobody knows holds up no record that can be read."""

from __future__ import annotations

import asyncio

import pytest
from headrace_contracts.codec import Codec, schema_text
from headrace_contracts.events import SkillAction, SkillSubmitted
from headrace_contracts.topics import SKILLS_SUBMITTED
from headrace_streams.parallel import RetryPolicy
from headrace_streams.records import ProducerRecord, Record
from headrace_streams.typed import decode
from headrace_testing.engine import TOPIC, Letters, eventually, running, three_partitions
from headrace_testing.unruly_registry import UnrulyRegistry

FLOOD, GOOD, NEW = 1_500, 200, 5_000
EVENT = SkillSubmitted(submission_id="s", tenant="acme", name="n", action=SkillAction.REVOKE, submitted_at=1)


@pytest.mark.parametrize("tenants", [1, 3, 50])
async def test_what_can_be_read_goes_on_in_a_flood_of_unknown_schemas(tenants: int) -> None:
    registry = UnrulyRegistry()
    codec = Codec(registry, "test.")
    await codec.prepare([SKILLS_SUBMITTED], register=True)
    value = codec.encode(SKILLS_SUBMITTED, EVENT)
    registry.put(NEW, "test.skills.submitted-value", schema_text(SkillSubmitted))
    cluster = three_partitions(10.0)

    def append(number: int, key: str, partition: int, schema_id: int | None = None) -> None:
        head = value[:5] if schema_id is None else b"\x00" + schema_id.to_bytes(4, "big")
        headers = (("ce_tenant", f"t{number % tenants}".encode()),)
        cluster.append(ProducerRecord(TOPIC, head + value[5:], key.encode(), partition, headers=headers))

    for number in range(FLOOD):
        append(number, f"flood {number}", 0, 10_000 + number)
    for number in range(GOOD):
        append(number, f"good {number}", 1 + number % 2)
    append(0, "new", 2, NEW)
    read: list[bytes | None] = []
    letters = Letters()

    async def handle(record: Record) -> None:
        await decode(codec, SkillSubmitted, record)
        read.append(record.key)

    loop = asyncio.get_running_loop()
    async with running(cluster, handle, letters=letters, retries=RetryPolicy()):
        began = loop.time()
        await eventually(lambda: len(read) == GOOD + 1, "what can be read")
        assert len(letters.kept) < FLOOD / 2, "they were not read first"
        await eventually(lambda: len(letters.kept) > 100, "the flood gets on")
        assert len(registry.asked) <= 120 + 100 * (loop.time() - began)
    assert registry.most_waiting <= 5
    assert b"new" in read
