"""`headrace dlq` against the running platform: what its services give up, and what an operator does about it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from subprocess import CompletedProcess
from typing import Any

import pytest
from headrace.addresses import VARIABLES
from headrace.cli.main import build
from headrace_contracts.codec import Codec
from headrace_contracts.content import plain
from headrace_contracts.events import Message, TaskSubmitted
from headrace_contracts.ids import new_id
from headrace_contracts.registry import SchemaRegistry
from headrace_contracts.topics import TASKS_SUBMITTED, dead_letters_of
from headrace_streams.dead_letters import DeadLetters
from headrace_streams.errors import SendToDeadLetters
from headrace_streams.kafka import KafkaLog
from headrace_streams.publishing import Publication, Publisher
from headrace_streams.records import ProducerRecord, Record, RecordMetadata
from headrace_testing.up import RunningStack
from typer.testing import CliRunner

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

Result = CompletedProcess[str]
SECRET = "a user wrote it"


@pytest.fixture
def headrace(platform: RunningStack) -> Callable[..., Result]:
    """Runs commands on the platform, in this process, which spares each the start of a program."""
    app = build([])

    def run(*arguments: str) -> Result:
        given = ["--stack", str(platform.data / "stack.json"), *arguments]
        result = CliRunner().invoke(app, given, env=dict.fromkeys(VARIABLES.values(), ""))
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return CompletedProcess(given, result.exit_code, result.stdout, result.stderr)

    return run


def _eventually(ask: Callable[[], Any], seconds: float = 30.0) -> Any:
    until = time.monotonic() + seconds
    while not (found := ask()):
        assert time.monotonic() < until, "not within the time"
        time.sleep(0.2)
    return found


def _append(platform: RunningStack, record: ProducerRecord) -> RecordMetadata:
    async def append() -> RecordMetadata:
        producer = KafkaLog({"bootstrap.servers": platform.bootstrap_servers}).producer()
        try:
            return await producer.send(record)
        finally:
            await producer.close()

    return asyncio.run(append())


def test_garbage_is_found_and_dealt_with(platform: RunningStack, headrace: Callable[..., Result]) -> None:
    topic = platform.topic_prefix + "tasks.submitted"
    where = _append(platform, ProducerRecord(topic, SECRET.encode(), b"k", 2, (("ce_id", b"odd"), ("token", b"abc"))))
    id_ = f"tasks.submitted/2/{where.offset}"

    def letters(*more: str) -> dict[str, Any]:
        result = headrace("dlq", "list", "tasks.submitted", "--json", *more)
        assert result.returncode == 0, result.stderr
        return {letter["id"]: letter for letter in json.loads(result.stdout)["letters"]}

    # Both of its readers reject it; they count as one dead letter.
    full = f"{platform.topic_prefix}{id_}"
    _eventually(lambda: letters().get(full, {}).get("services") == ["intake", "router"])
    shown = headrace("dlq", "show", id_)
    assert SECRET not in shown.stdout
    assert "BadBytes" in shown.stdout
    assert "ce_id=odd" in shown.stdout
    assert "abc" not in shown.stdout
    assert SECRET in headrace("dlq", "show", "--content", "tasks.submitted", f"2/{where.offset}").stdout

    refused = headrace("dlq", "replay", id_, "--yes")
    assert (refused.returncode, "still cannot be decoded" in refused.stderr) == (1, True)
    assert headrace("dlq", "drop", id_, "--yes").returncode == 2, "a reason is needed"
    dropped = headrace("dlq", "drop", id_, "--yes", "--reason", "garbage", "--by", "ada")
    assert dropped.returncode == 0, dropped.stderr
    assert full not in letters()
    assert letters("--all")[full]["handled"]["handled_by"] == "ada"


def test_a_replayed_task_is_done_once(platform: RunningStack, headrace: Callable[..., Result]) -> None:
    task_id = new_id()
    asyncio.run(_give_up_a_task(platform, task_id))
    (letter,) = [
        letter
        for letter in json.loads(headrace("dlq", "list", "--json", "--error", "SendToDeadLetters").stdout)["letters"]
        if letter["tenant"] == "default"
    ]
    dry = headrace("dlq", "replay", letter["id"], "--dry-run")
    assert (dry.returncode, "would replay 1" in dry.stderr) == (0, True)
    asked = headrace("dlq", "replay", letter["id"])
    assert (asked.returncode, "use --yes" in asked.stderr) == (2, True)
    replayed = headrace("dlq", "replay", "--error", "SendToDeadLetters", "--tenant", "default", "--yes")
    assert replayed.returncode == 0, replayed.stderr
    assert f"replayed {letter['id']} as {platform.topic_prefix}tasks.submitted/4/" in replayed.stdout

    def ended() -> bool:
        shown = headrace("tasks", "show", task_id, "--json")
        return shown.returncode == 0 and json.loads(shown.stdout)["status"] == "succeeded"

    _eventually(ended)
    again = headrace("dlq", "replay", letter["id"], "--yes")
    assert (again.returncode, "--again" in again.stderr) == (1, True)


async def _give_up_a_task(platform: RunningStack, task_id: str) -> None:
    """As a service would that cannot handle a good record."""
    event = TaskSubmitted(
        task_id=task_id,
        tenant="default",
        messages=(Message(role="user", content=plain("Say hello")),),
        submitted_at=time.time_ns() // 1_000_000,
    )
    async with SchemaRegistry(platform.registry_url) as registry:
        codec = Codec(registry, platform.topic_prefix)
        await codec.prepare([TASKS_SUBMITTED, dead_letters_of(TASKS_SUBMITTED)])
        producer = KafkaLog({"bootstrap.servers": platform.bootstrap_servers}).producer()
        publisher = Publisher(producer, codec, "test")
        out = publisher.record_of(
            Publication(
                spec=TASKS_SUBMITTED,
                event=event,
                event_id=task_id,
                key=b"some key",
                tenant="default",
                time_ms=1,
            )
        )
        # An offset that the topic does not have: the record itself is in the letter alone.
        record = Record(out.topic, 4, 1_000_000, 1, out.key, out.value, out.headers)
        letters = DeadLetters(publisher, "router", platform.topic_prefix, lambda: time.time_ns() // 1_000_000)
        await letters.keep(record, SendToDeadLetters("not yet"))
        await producer.close()


def test_help_has_examples() -> None:
    for command in ("list", "show", "replay", "drop"):
        result = CliRunner().invoke(build([]), ["dlq", command, "--help"])
        assert result.exit_code == 0
        assert f"headrace dlq {command}" in result.stdout.split("Examples", 1)[1]
