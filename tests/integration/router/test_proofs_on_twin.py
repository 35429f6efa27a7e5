"""Proofs of where a task's text was, of tasks that real routers have decided about, on the twin."""

from __future__ import annotations

import json
from typing import Any

import pytest
from headrace.connecting import Cluster
from headrace.proofs import PlaceOfText, Proof, is_genuine, prove, signed
from headrace_contracts.events import Privacy, TaskSubmitted
from headrace_contracts.ids import new_id
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.topics import TASKS_JOURNAL, TASKS_SUBMITTED
from headrace_streams.records import ProducerRecord
from headrace_testing.router_twin import PREFIX, Twin, now_ms
from headrace_testing.routing import GROQ_NODE, LOCAL, task

SECRET = "of this installation, and long"


class _Registry(MemoryRegistry):
    async def close(self) -> None: ...


def asking(text: str, **fields: Any) -> TaskSubmitted:
    return task(new_id(), text, **{"privacy": Privacy.PUBLIC, "submitted_at": now_ms(), **fields})


async def proof_about(twin: Twin, task_id: str) -> Proof:
    cluster = Cluster(twin.log, twin.codec, _Registry())
    return await prove(cluster, task_id)


def places(proof: Proof, kind: str) -> list[str]:
    return [seen.where for seen in proof.sightings if seen.kind == kind]


async def test_a_proof_lists_every_record_topic_model_and_cache_and_who_got_its_answer() -> None:
    async with Twin(partitions=2) as twin:
        twin.nodes = {"workstation": LOCAL, "groq": GROQ_NODE}
        twin.work()
        twin.router()
        secret, cloud = asking("My diagnosis.", privacy=Privacy.SENSITIVE), asking("Weather?", model=_GROQ)
        again = asking("Weather?", model=_GROQ)
        for one in (secret, cloud, again):
            await twin.submit(one)
            await twin.until_completed([one])
        await twin.quiet()
        kept, left, served = [await proof_about(twin, one.task_id) for one in (secret, cloud, again)]

        assert (kept.left, left.left, served.left) == (False, True, False)
        assert (kept.privacy, kept.tenant) == ("sensitive", "acme")
        assert places(kept, "provider") == []
        assert set(places(left, "provider")) == {"groq"}
        assert all(where.startswith("work.local.") for where in places(kept, "sent"))
        assert any(where.startswith("work.cloud.") for where in places(left, "sent"))
        assert not any("Postgres" in where for where in places(kept, "cache"))
        assert any("Postgres" in where for where in places(left, "cache"))
        assert any("given to the equal task" in seen.what for seen in left.sightings)
        assert any(f"that of the equal task {cloud.task_id}" in seen.what for seen in served.sightings)

        # Every record of the topics that holds the text is there, by its place; the test looks itself.
        for proof, text in ((kept, b"My diagnosis."), (left, b"Weather?")):
            listed = {seen.where for seen in proof.sightings if seen.text != "none"}
            topics_sent = set(places(proof, "sent"))
            for name in ("tasks.submitted", "tasks.journal"):
                for record in twin.cluster.records(PREFIX + name):
                    mine = record.value is not None and text in record.value and proof.task_id.encode() in record.value
                    if mine:
                        assert f"{name}[{record.partition}]@{record.offset}" in listed
            for name in ("work.local.interactive", "work.local.batch", "work.cloud.interactive", "work.cloud.batch"):
                for record in twin.cluster.records(PREFIX + name):
                    if record.value is not None and proof.task_id.encode() in record.value:
                        assert name in topics_sent
        assert b"diagnosis" not in json.dumps(kept.document()).encode(), "a proof repeats nothing of the content"
        assert set(kept.searched) >= {"tasks.journal[0]", "tasks.journal[1]", "audit.recorded[0]"}


async def test_what_cannot_be_read_is_named_and_what_is_unknown_is_empty() -> None:
    async with Twin(partitions=1) as twin:
        twin.work()
        twin.router()
        one = asking("Hello")
        await twin.submit(one)
        await twin.until_completed([one])
        twin.cluster.append(
            ProducerRecord(PREFIX + TASKS_JOURNAL.name, b"\x00\x00\x00\x00\x01" + one.task_id.encode(), b"k", 0)
        )
        proof = await proof_about(twin, one.task_id)
        assert len(proof.unreadable) == 1
        assert proof.unreadable[0].startswith("tasks.journal[0]@")
        nothing = await proof_about(twin, new_id())
        assert (nothing.sightings, nothing.unreadable) == ((), ())
        assert TASKS_SUBMITTED.name not in {name.partition("[")[0] for name in nothing.searched}


@pytest.mark.parametrize(
    "change",
    [
        {"left": True},
        {"sightings": []},
        {"task_id": "another"},
        {"extra": 1},
        {"signature": "0" * 64},
        {"signature": None},
        {"signature": "é"},
    ],
    ids=str,
)
def test_a_proof_that_was_changed_or_made_elsewhere_is_not_genuine(change: dict[str, Any]) -> None:
    seen = PlaceOfText(1, "record", "tasks.journal[0]@3", "prompt", "decision: submitted")
    proof = Proof("t", 1, "acme", "public", False, (seen,), {"tasks.journal[0]": (0, 5)})
    document = json.loads(json.dumps(signed(proof, SECRET)))
    assert is_genuine(document, SECRET)
    assert not is_genuine(document, SECRET + "!")
    assert not is_genuine({**document, **change}, SECRET)


_GROQ = "groq/llama-3.3-70b-versatile"
