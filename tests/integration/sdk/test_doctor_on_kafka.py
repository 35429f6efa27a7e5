"""Doctor on a real broker and registry: trouble is made, named, mended by the command that is named, and gone."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions
from confluent_kafka import TopicPartition as KafkaPartition
from confluent_kafka.admin import AdminClient
from headrace.addresses import VARIABLES, Addresses
from headrace.cli.checkups.cluster import gather_facts
from headrace.cli.checkups.contents import check_dead_letters, check_schema_ids
from headrace.cli.checkups.findings import Finding
from headrace.cli.checkups.groups import check_groups
from headrace.cli.checkups.replication import judge_replication
from headrace.cli.checkups.topics import judge_topics
from headrace.cli.main import build
from headrace.connecting import Cluster
from headrace_contracts.codec import Codec
from headrace_contracts.events import AuditRecorded, Privacy
from headrace_contracts.groups import GROUPS, INTAKE_VIEW, LEDGER, LOCAL_WORKER, ROUTER, GroupSpec
from headrace_contracts.memory_registry import MemoryRegistry
from headrace_contracts.registry import SchemaRegistry
from headrace_contracts.released import versions_of
from headrace_contracts.topics import AUDIT_RECORDED, TOPICS, TopicSpec
from headrace_streams.dead_letters import DeadLetters
from headrace_streams.kafka import KafkaLog
from headrace_streams.log_identity import fingerprint
from headrace_streams.publishing import Publisher
from headrace_streams.records import ProducerRecord, Record
from headrace_testing.logs import PATIENCE, Listener, until
from headrace_testing.provisioned import provision_patiently
from typer.testing import CliRunner

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

Result = subprocess.CompletedProcess[str]
WELL = Finding("", True, "")
NOW = 1_700_000_000_000


@pytest.fixture(scope="module")
def addresses(kafka: str, registry_url: str) -> Addresses:
    """An installation of its own: all topics and schemas under a prefix that nobody else has."""
    prefix = f"d{uuid.uuid4().hex[:8]}."

    async def make() -> None:
        async with SchemaRegistry(registry_url) as registry:
            log = KafkaLog({"bootstrap.servers": kafka})
            await provision_patiently(log.admin(), Codec(registry, prefix), TOPICS.values())

    asyncio.run(make())
    return Addresses(bootstrap_servers=kafka, registry_url=registry_url, topic_prefix=prefix)


@pytest.fixture
def log(addresses: Addresses) -> KafkaLog:
    return KafkaLog({"bootstrap.servers": addresses.bootstrap_servers or ""})


@pytest.fixture
def foreign(addresses: Addresses) -> AdminClient:
    """Another tool's client, that does what it likes."""
    return AdminClient({"bootstrap.servers": addresses.bootstrap_servers or ""})


@pytest.fixture
def headrace(addresses: Addresses) -> Callable[..., Result]:
    app = build([])
    given = {name: getattr(addresses, name) or "" for name in ("bootstrap_servers", "registry_url", "topic_prefix")}

    def run(*arguments: str) -> Result:
        environ = {**dict.fromkeys(VARIABLES.values(), ""), **{VARIABLES[name]: value for name, value in given.items()}}
        result = CliRunner().invoke(app, arguments, env=environ)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return Result(arguments, result.exit_code, result.stdout, result.stderr)

    return run


async def of_topics(log: KafkaLog, addresses: Addresses) -> dict[str, Finding]:
    facts = await gather_facts(log.admin(), addresses.topic_prefix)
    found = judge_topics(facts.described, facts.settings, facts.replication, addresses.topic_prefix)
    found += judge_replication(facts.replication, facts.settings, addresses.topic_prefix)
    return {finding.part: finding for finding in found}


async def well_again(log: KafkaLog, addresses: Addresses) -> None:
    """Brokers learn of a change shortly after the controller."""
    async with asyncio.timeout(PATIENCE):
        while not all(finding.well for finding in (await of_topics(log, addresses)).values()):  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def of_group(log: KafkaLog, addresses: Addresses, spec: GroupSpec) -> Finding:
    return (await check_groups(log.admin(), addresses.topic_prefix, (), again_seconds=0.2, specs=[spec]))[0]


@pytest.mark.parametrize(
    ("topic", "settings", "says"),
    [
        ("tasks.journal", {"cleanup.policy": "delete"}, "cleanup.policy is delete, not compact,delete"),
        ("tasks.completed", {"max.message.bytes": "1000", "retention.ms": "60000"}, "max.message.bytes is 1000, not"),
        ("usage.recorded", {"retention.bytes": "1000000"}, "retention.bytes is 1000000, not -1"),
        ("tasks.submitted", {"min.insync.replicas": "2"}, "nothing can be written"),
        ("skills.catalog", {"cleanup.policy": "delete,compact"}, "deleted with their age"),
    ],
)
async def test_a_setting_that_was_altered_is_named_and_mended(
    addresses: Addresses,
    log: KafkaLog,
    headrace: Callable[..., Result],
    topic: str,
    settings: Mapping[str, str],
    says: str,
) -> None:
    await well_again(log, addresses)
    await log.admin().change_topic_settings({addresses.topic_prefix + topic: settings})
    async with asyncio.timeout(PATIENCE):
        while (finding := (await of_topics(log, addresses)).get(f"topic {topic}")) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert not finding.ok
    assert says in finding.detail
    command = finding.remedy.split()
    assert command[0] == "headrace"
    tried = await asyncio.to_thread(headrace, *command[1:], "--dry-run")
    assert (tried.returncode, "would become" in tried.stdout) == (0, True)
    assert not (await of_topics(log, addresses))[f"topic {topic}"].ok
    assert (await asyncio.to_thread(headrace, *command[1:])).returncode == 0
    await well_again(log, addresses)


@pytest.mark.parametrize(("group", "topic", "count"), [("skills", "skills.submitted", 7), ("tasks", "tasks.journal", 8),
                                                        ("tasks", "tasks.submitted", 9)])  # fmt: skip
async def test_partitions_added_to_one_topic_only_are_named_and_mended(
    addresses: Addresses, log: KafkaLog, headrace: Callable[..., Result], group: str, topic: str, count: int
) -> None:
    await well_again(log, addresses)
    await log.admin().add_partitions({addresses.topic_prefix + topic: count})
    finding = (await of_topics(log, addresses))[f"topics {group}"]
    assert (finding.ok, f"one has {count}" in finding.detail) == (False, True)
    assert finding.remedy == f"headrace topics resize {group} {count}"
    assert (await asyncio.to_thread(headrace, *finding.remedy.split()[1:])).returncode == 0
    await well_again(log, addresses)


@asynccontextmanager
async def members(log: KafkaLog, addresses: Addresses, *specs: GroupSpec) -> AsyncIterator[None]:
    """One member for each group, with all of its partitions."""
    prefix = addresses.topic_prefix
    consumers = [log.consumer(prefix + spec.name) for spec in specs]
    try:
        for spec, consumer in zip(specs, consumers, strict=True):
            listener = Listener()
            topics = [prefix + topic.name for topic in spec.topics]
            every = sum((await log.admin().partition_counts(topics)).values())
            await consumer.subscribe(topics, listener)
            await until(lambda listener=listener, every=every: len(listener.owned) == every, consumer)  # type: ignore[misc]
        yield
    finally:
        await asyncio.gather(*(consumer.close() for consumer in consumers))


async def set_position(foreign: AdminClient, addresses: Addresses, spec: GroupSpec, topic: TopicSpec, offset: int,
                       metadata: str = "") -> None:  # fmt: skip
    place = KafkaPartition(addresses.topic_prefix + topic.name, 0, offset, metadata)
    wanted = ConsumerGroupTopicPartitions(addresses.topic_prefix + spec.name, [place])
    for future in foreign.alter_consumer_group_offsets([wanted]).values():
        await asyncio.wrap_future(future)


async def test_groups_from_nobody_to_everybody_to_nobody(addresses: Addresses, log: KafkaLog) -> None:
    specs = [spec for spec in GROUPS.values() if spec.service != LOCAL_WORKER.service]
    assert not (await of_group(log, addresses, ROUTER)).ok
    async with members(log, addresses, *specs):
        findings = await check_groups(log.admin(), addresses.topic_prefix, (), again_seconds=0.2, specs=specs)
        assert [(finding.well, finding.part) for finding in findings] == [(True, "consumer groups")]
        assert all(f"{spec.name} 0" in findings[0].detail for spec in specs)
    for spec in specs[:3]:
        finding = await of_group(log, addresses, spec)
        assert (finding.part, "has no members" in finding.detail) == (f"group {spec.name}", True)
        assert finding.remedy.startswith(f"start {spec.service}")


@pytest.mark.parametrize("spec", [LOCAL_WORKER, LEDGER, INTAKE_VIEW], ids=lambda spec: spec.name)
async def test_positions_beyond_and_before_the_log_are_named(
    addresses: Addresses, log: KafkaLog, foreign: AdminClient, spec: GroupSpec
) -> None:
    topic = spec.topics[0]
    name = addresses.topic_prefix + topic.name
    own = fingerprint((await log.admin().describe_topics([name]))[name].topic_id)
    for offset, metadata, says in (
        (1_000, "", "created again"),
        (1_000, f"i1{own}", "has lost records at its end"),
        (0, f"i1{fingerprint('another')}", "created again"),
    ):
        await set_position(foreign, addresses, spec, topic, offset, metadata)
        async with members(log, addresses, spec):
            finding = await of_group(log, addresses, spec)
            assert not finding.ok
            assert f"{topic.name}[0] stands at {offset:,} of " in finding.detail
            assert says in finding.detail
            assert f"restart {spec.service}" in finding.remedy
    await set_position(foreign, addresses, spec, topic, 0)
    producer = log.producer()
    for _ in range(3):
        await producer.send(ProducerRecord(name, b"x", partition=0))
    await producer.close()
    for future in foreign.delete_records([KafkaPartition(name, 0, 3)]).values():
        await asyncio.wrap_future(future)
    async with members(log, addresses, spec):
        finding = await of_group(log, addresses, spec)
        assert "deleted before they were read: up to 3 records" in finding.detail
        assert finding.ok is (spec.positions != "kafka")
    await set_position(foreign, addresses, spec, topic, 3)
    async with members(log, addresses, spec):
        assert (await of_group(log, addresses, spec)).well


async def test_partitions_that_a_group_does_not_know_of_yet(addresses: Addresses, log: KafkaLog) -> None:
    async with members(log, addresses, LEDGER):
        topic = addresses.topic_prefix + "usage.recorded"
        count = (await log.admin().partition_counts([topic]))[topic]
        await log.admin().add_partitions({topic: count + 2})
        finding = await of_group(log, addresses, LEDGER)
        assert not finding.ok
        assert f"nobody reads partitions {count}-{count + 1} of usage.recorded" in finding.detail
        assert "restart cost-accountant" in finding.remedy


@pytest.mark.parametrize("topic", ["skills.feed", "spend.windows", "audit.recorded"])
async def test_a_topic_that_is_deleted_is_missing_until_it_is_provisioned(
    addresses: Addresses, log: KafkaLog, foreign: AdminClient, topic: str
) -> None:
    name = addresses.topic_prefix + topic
    for future in foreign.delete_topics([name]).values():
        await asyncio.wrap_future(future)
    async with asyncio.timeout(PATIENCE):
        while (found := await of_topics(log, addresses)).get("topics", WELL).ok:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert f"1 of {len(TOPICS)} topics are missing: {topic}" in found["topics"].detail
    assert "python -m headrace_runtime.provision" in found["topics"].remedy
    async with SchemaRegistry(addresses.registry_url or "") as registry:
        await provision_patiently(log.admin(), Codec(registry, addresses.topic_prefix), TOPICS.values())
    await well_again(log, addresses)


async def test_ids_that_the_registry_does_not_have_or_has_given_away(addresses: Addresses, log: KafkaLog) -> None:
    names = {"audit.recorded"}
    async with SchemaRegistry(addresses.registry_url or "") as registry:
        assert (await check_schema_ids(log, registry, addresses.topic_prefix, names))[0].well
        codec = Codec(MemoryRegistry(), addresses.topic_prefix)
        await codec.prepare([AUDIT_RECORDED], register=True)
        other = await registry.id_of(
            addresses.topic_prefix + TOPICS["skills.feed"].subject, _schema_text(TOPICS["skills.feed"])
        )
        producer = log.producer()
        lost = 2_000_000_000 + int(time.time()) % 100_000_000
        for schema_id in (lost, other):
            value = b"\x00" + schema_id.to_bytes(4, "big") + codec.encode(AUDIT_RECORDED, _audit())[5:]
            await producer.send(ProducerRecord(addresses.topic_prefix + AUDIT_RECORDED.name, value, b"k", 0))
        await producer.close()
        findings = await check_schema_ids(log, registry, addresses.topic_prefix, names)
    assert [finding.ok for finding in findings] == [False, False]
    assert f"has lost ids that records name: {lost} in audit.recorded (1 record)" in findings[0].detail
    assert f"{other} in audit.recorded (1 record, now headrace.skills.SkillChanged)" in findings[1].detail
    assert all("headrace schemas" in finding.remedy for finding in findings)


async def test_an_open_dead_letter_is_counted_until_it_is_dropped(
    addresses: Addresses, log: KafkaLog, headrace: Callable[..., Result]
) -> None:
    async with Cluster.at(addresses) as cluster:
        assert (await check_dead_letters(cluster, ()))[0].well
        await cluster.codec.prepare([spec for name, spec in TOPICS.items() if name.endswith(".dlq")])
        producer = log.producer()
        publisher = Publisher(producer, cluster.codec, "headrace/test")
        letters = DeadLetters(publisher, "test", addresses.topic_prefix, lambda: NOW)
        for topic, count in (("tasks.submitted", 2), ("usage.recorded", 1)):
            for offset in range(count):
                record = Record(addresses.topic_prefix + topic, 0, offset, NOW, b"k", b"junk")
                await letters.keep(record, ValueError("not readable"), 1)
        await producer.close()
        (finding,) = await check_dead_letters(cluster, ())
        assert (finding.ok, finding.warning) == (True, True)
        assert "3 open: 2 of tasks.submitted, 1 of usage.recorded" in finding.detail
        assert "headrace dlq list" in finding.remedy
        for topic in ("tasks.submitted", "usage.recorded"):
            dropped = await asyncio.to_thread(headrace, "dlq", "drop", "--topic", topic, "--reason", "test", "-y")
            assert dropped.returncode == 0, dropped.stderr
        assert (await check_dead_letters(cluster, ()))[0].well


def test_the_command_says_all_of_it_as_text_and_as_json(headrace: Callable[..., Result], tmp_path: Path) -> None:
    # Nobody serves this installation, so its groups have no members.
    shown, as_json = headrace("doctor"), headrace("doctor", "--json")
    findings = json.loads(as_json.stdout)
    assert shown.returncode == as_json.returncode == 3  # intake's address is unknown: nobody can be reached there
    for finding in findings:
        assert finding["detail"].split(",")[0][:60] in shown.stdout.replace("\n", " ") or finding["ok"]
    assert {"kafka", "topics", "replication", "schema registry", "group router"} <= {each["part"] for each in findings}
    assert "✗ group router" in shown.stdout
    assert "what to do: start router (`headrace up`)" in shown.stdout


def _schema_text(spec: TopicSpec) -> str:
    return versions_of(spec.record.FULL_NAME)[0].text


def _audit() -> AuditRecorded:
    return AuditRecorded(
        event_id="a", tenant="acme", task_id="t", action="x", privacy=Privacy.PUBLIC, allowed=True, recorded_at=1
    )
