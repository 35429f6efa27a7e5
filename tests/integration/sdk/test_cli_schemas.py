"""`headrace schemas` on the running platform: an id that the registry has lost is found in records and brought back."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from headrace.addresses import VARIABLES
from headrace.cli.main import build
from headrace_contracts.codec import Codec
from headrace_contracts.errors import Origin
from headrace_contracts.events import AuditRecorded, Privacy
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.registry import SchemaRegistry
from headrace_contracts.topics import AUDIT_RECORDED
from headrace_streams.kafka import KafkaLog
from headrace_streams.records import ProducerRecord
from headrace_testing.up import RunningStack
from typer.testing import CliRunner

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

Result = CompletedProcess[str]
EVENT = AuditRecorded(
    event_id="a",
    tenant="acme",
    task_id="t",
    action="dispatch",
    privacy=Privacy.PUBLIC,
    allowed=True,
    recorded_at=1,
)


@pytest.fixture
def headrace(platform: RunningStack) -> Callable[..., Result]:
    """Runs commands on the platform, in this process."""
    app = build([])

    def run(*arguments: str) -> Result:
        given = ["--stack", str(platform.data / "stack.json"), "schemas", *arguments]
        result = CliRunner().invoke(app, given, env=dict.fromkeys(VARIABLES.values(), ""))
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return CompletedProcess(given, result.exit_code, result.stdout, result.stderr)

    return run


async def _write(platform: RunningStack, schema_id: int) -> bytes:
    codec = Codec(MemoryRegistry(), platform.topic_prefix)
    await codec.prepare([AUDIT_RECORDED], register=True)
    value = b"\x00" + schema_id.to_bytes(4, "big") + codec.encode(AUDIT_RECORDED, EVENT)[5:]
    producer = KafkaLog({"bootstrap.servers": platform.bootstrap_servers}).producer()
    try:
        await producer.send(ProducerRecord(platform.topic_prefix + AUDIT_RECORDED.name, value, b"acme"))
    finally:
        await producer.close()
    return value


async def _read(platform: RunningStack, value: bytes) -> AuditRecorded:
    async with SchemaRegistry(platform.registry_url) as registry:
        return await Codec(registry, platform.topic_prefix).read(AuditRecorded, value, Origin("t", 0, 0))


def test_a_lost_id_is_found_and_brought_back(
    platform: RunningStack, headrace: Callable[..., Result], tmp_path: Path
) -> None:
    assert headrace("check").returncode == 0
    kept = headrace("check", "--all", "--json")
    assert {row["status"] for row in json.loads(kept.stdout)} <= {"ok", "foreign"}
    assert headrace("repair", "--yes").stdout.startswith("nothing to repair")

    schema_id = random.randrange(1_000_000, 1_000_000_000)
    value = asyncio.run(_write(platform, schema_id))
    checked = headrace("check")
    assert checked.returncode == 1
    assert str(schema_id) in checked.stdout
    assert "lost" in checked.stdout
    assert "headrace.audit.AuditRecorded (current)" in checked.stdout
    assert headrace("repair", "--dry-run").returncode == 0
    assert headrace("check").returncode == 1

    repaired = headrace("repair", "--yes")
    assert repaired.returncode == 0, repaired.stdout + repaired.stderr
    assert f"id {schema_id} has its schema again" in repaired.stdout
    assert headrace("check").returncode == 0
    assert asyncio.run(_read(platform, value)) == EVENT

    (tmp_path / "ids.json").write_text(kept.stdout)
    assert headrace("repair", "--yes", "--from", str(tmp_path / "ids.json")).returncode == 0
    (tmp_path / "other.json").write_text("{}")
    assert headrace("repair", "--yes", "--from", str(tmp_path / "other.json")).returncode == 2
