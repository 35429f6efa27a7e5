"""Hostile bytes under hostile schemas: a value or an unreadable one, soon and in little memory.

They are decoded in a process of their own that is killed when it hangs, takes too much memory, or crashes in C.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from headrace_contracts.codec import Codec
from headrace_contracts.errors import Origin
from headrace_contracts.events import Content, Message, TaskSubmitted
from headrace_contracts.events._schemas import SCHEMAS
from headrace_contracts.limits import MOST_MESSAGES
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.schema_texts import Types
from headrace_contracts.topics import TASKS_SUBMITTED
from headrace_contracts.writer_schemas import own_schema, writer_schema
from headrace_testing.hostile_values import KINDS
from headrace_testing.schema_changes import records

SECONDS = 90
SUPPORT = Path(__file__).parents[1] / "support"
ORIGIN = Origin("test.tasks.submitted", 0, 0)


def run(*arguments: str) -> dict[str, str | int]:
    """What the process printed. Raises what the test should fail with."""
    ended = subprocess.run(
        [sys.executable, "-m", "headrace_testing.hostile_values", *arguments],
        env={"PYTHONPATH": str(SUPPORT)}, capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3_000:]
    found: dict[str, str | int] = json.loads(ended.stdout)
    return found


def test_every_kind_of_value_that_expands_is_refused() -> None:
    outcomes = run()
    assert len(outcomes) == 2 * len(KINDS) + 1
    assert {
        what: outcome for what, outcome in outcomes.items() if outcome not in ("refused", "too many", "unreadable")
    } == {}
    count = Counter(outcomes.values())
    assert min(count["refused"], count["too many"], count["unreadable"]) >= 8


@pytest.mark.parametrize("first", [0, 5_000])
def test_thousands_of_hostile_values(first: int) -> None:
    seen = {what: int(count) for what, count in run(str(first), str(first + 80)).items()}
    assert seen["decoded"] > 500
    assert seen["unreadable"] > 500
    assert seen["too many"] > 20
    assert min(seen["schemas read"], seen["schemas refused"]) > 5


def submitted(messages: int) -> TaskSubmitted:
    content = Content(data=b"x")
    return TaskSubmitted(
        task_id="t1", tenant="acme", submitted_at=1_700_000_000_123,
        messages=tuple(Message(role="user", content=content) for _ in range(messages)),
    )  # fmt: skip


@pytest.mark.parametrize("messages", [0, 1, MOST_MESSAGES // 2, MOST_MESSAGES])
async def test_what_a_task_may_hold_is_decoded(messages: int) -> None:
    """Also by a program that knows fewer fields of each message than its writer."""
    event = submitted(messages)
    codec = Codec(MemoryRegistry(), "test.")
    await codec.prepare([TASKS_SUBMITTED], register=True)
    value = codec.encode(TASKS_SUBMITTED, event)
    assert codec.decode(TaskSubmitted, value, ORIGIN) == event
    own_schema(TaskSubmitted.FULL_NAME).limits.check(value, 5)
    tree = json.loads(SCHEMAS[TaskSubmitted.FULL_NAME])
    message = next(each for each in records(tree) if each["name"] == "Message")
    message["fields"] += [{"name": f"more_{n}", "type": ["null", "string"], "default": None} for n in range(4)]
    newer = writer_schema(json.dumps(tree))
    data = value[:5] + value[5:].replace(b"\x02x", b"\x02x" + b"\x00" * 4) if messages else value
    newer.limits.check(data, 5)


def test_nothing_of_ours_is_walked_through_unless_it_is_long() -> None:
    for name in SCHEMAS:
        assert own_schema(name).limits.unscanned > 40_000, name
        assert Types(own_schema(name).schema).named[name]
