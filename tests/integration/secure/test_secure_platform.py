"""The whole platform as `headrace up --secure` runs it, with the generated users and rights and no other.

Services answer tasks, every command logs in by itself, strangers are not let in. In the end every user tries
everything.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from headrace import KafkaClient
from headrace.addresses import VARIABLES, locate
from headrace.cli.main import build
from headrace_contracts.errors import RegistryAccessRefused
from headrace_contracts.events import TaskStatus
from headrace_contracts.producer_signature import SigningKey
from headrace_contracts.registry import SchemaRegistry
from headrace_contracts.registry_access import ANONYMOUS, RegistryAccess
from headrace_contracts.topics import TOPICS, TopicSpec
from headrace_devstack.logins import ADMIN
from headrace_devstack.parts.part import NotHealthyYet
from headrace_devstack.parts.probes import kafka_serves
from headrace_streams.errors import LeaveGroup
from headrace_streams.kafka import KafkaLog
from headrace_streams.kafka.users import apply_users
from headrace_streams.records import NewTopic, ProducerRecord, TopicPartition
from headrace_streams.rights import USERS, rights
from headrace_testing.kafka_rights import OPERATIONS, Tried, try_everything
from headrace_testing.platform_submissions import SUBMISSIONS, submissions
from headrace_testing.private_files import open_to_others
from headrace_testing.signatures import signed_with
from headrace_testing.up import RunningStack, open_folder, running_up
from headrace_testing.waiting import eventually
from typer.testing import CliRunner

pytestmark = pytest.mark.timeout(400)

QUIET = logging.getLogger("headrace_testing.refused")
QUIET.disabled = True
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def platform() -> Iterator[RunningStack]:
    with open_folder("secure") as folder:
        options = ("--secure", "--simulate", "--simulator-speed", "instant", "--port-base", "0")
        with running_up(folder, *options) as stack:
            yield stack


@pytest.fixture
def command(platform: RunningStack) -> Command:
    """Runs `headrace`, as a user does who has typed no password."""

    app = build([])

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        given = ["--stack", str(platform.data / "stack.json"), *arguments]
        result = CliRunner().invoke(app, given, env={**dict.fromkeys(VARIABLES.values(), ""), **variables})
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return subprocess.CompletedProcess(given, result.exit_code, result.stdout, result.stderr)

    return run


def test_commands_log_in_by_themselves(command: Command) -> None:
    submitted = command("submit", "Explain murmur2.", "--json")
    assert submitted.returncode == 0, submitted.stderr
    task = json.loads(submitted.stdout)["id"]
    shows: tuple[tuple[str, ...], ...] = (
        ("tail", "tasks.completed", "--from-start", "--json"),
        ("tail", "tasks.journal", "--from-start", "--json"),
        ("tail", "usage.recorded", "--from-start", "--json"),
        ("tasks", "why", task, "--journal"),
    )
    for arguments in shows:
        shown = command(*arguments)
        assert shown.returncode == 0, shown.stderr
        assert task in shown.stdout + shown.stderr, arguments
    out = command("submit", "Go out.", "--privacy", "public", "--model", "groq/llama-3.3-70b-versatile")
    assert (out.returncode, "groq" in out.stderr) == (0, True), out.stderr
    for _ in range(60):
        booked = json.loads(command("costs", "--json").stdout)
        if booked["total"]["executions"] >= 2:
            break
        time.sleep(0.5)
    else:
        pytest.fail(f"the ledger has not booked both: {booked}")
    others: tuple[tuple[str, ...], ...] = (
        ("dlq", "list"), ("journal", "verify"), ("schemas", "check"), ("topics", "list"), ("doctor",),
        ("topics", "configure", "--dry-run"), ("topics", "resize", "usage.recorded", "7"), ("skills", "search", "x"),
        ("costs",),
    )  # fmt: skip
    for arguments in others:
        done = command(*arguments)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"


@pytest.mark.parametrize("topic", ["tasks.submitted", "work.local.interactive", "access.keys"])
def test_what_only_services_read_is_not_shown(command: Command, topic: str) -> None:
    refused = command("tail", topic)
    assert refused.returncode == 4
    assert "only services read" in refused.stderr


def test_variables_log_in_as_another_user(command: Command, platform: RunningStack) -> None:
    as_observer = {"HEADRACE_KAFKA_PROPERTIES_FILE": str(platform.kafka_users["observer"])}
    assert command("tail", "usage.recorded", **as_observer).returncode == 0
    refused = command("tail", "tasks.completed", **as_observer)
    assert refused.returncode == 1
    assert "TOPIC_AUTHORIZATION_FAILED" in refused.stderr


async def test_agents_write_and_content_readers_read_for_the_tenant_of_the_stack_s_key(platform: RunningStack) -> None:
    """As a newcomer's program does, who has named no key."""
    addresses = locate(environ={}, stack_file=platform.data / "stack.json")
    async with KafkaClient("default", addresses=addresses) as client:
        task = await client.submit("Explain murmur2.", role="documentation")
        assert (await task.completion(60)).status is TaskStatus.SUCCEEDED
        async with client.skill_changes("testing") as changes:
            await client.publish_skill("rights", "Ask only for what you need.", interests=["testing"])
            async with asyncio.timeout(60):
                async for delivered in changes:
                    assert delivered.event.name == "rights"
                    break


@pytest.mark.parametrize("spec", SUBMISSIONS, ids=lambda spec: str(spec.name))
async def test_what_tenants_submit_over_kafka_is_taken_if_they_have_signed_it(
    platform: RunningStack, spec: TopicSpec
) -> None:
    async with submissions(platform, f"signing-{spec.name.replace('.', '-')}") as submitting:
        ways = submitting.forgeries
        forged = {name: submitting.write(spec, forgery.headers) for name, forgery in ways.items()}
        await submitting.flush()
        letters = await submitting.refusals(spec, forged.values())
        told = {name: letters.get(each.key, "nothing") for name, each in forged.items()}
        assert {
            name: text for name, text in told.items() if not text.startswith(f"ProducerRefused: {ways[name].flaw}")
        } == {}
        assert [name for name, each in forged.items() if await each.had_effect()] == []
        good = submitting.write(spec, signed_with(submitting.signing_key))
        await submitting.flush()
        await eventually(good.had_effect, 30)


def test_the_start_says_who_may_what_without_saying_a_password(platform: RunningStack) -> None:
    assert "everyone logs in" in platform.output
    assert "submissions are signed, with data/secrets/signing-key" in platform.output
    said = platform.output + (platform.data / "stack.json").read_text()
    assert platform.kafka_properties(ADMIN)["sasl.password"] not in said
    assert platform.signing_key_file is not None
    signing_key = SigningKey.parse(platform.signing_key_file.read_text())
    assert signing_key.key_id == platform.api_key.split("_")[1]
    assert signing_key.code not in said
    for log in (platform.data / "logs").iterdir():
        text = log.read_text(errors="replace")
        assert signing_key.code not in text, log.name
        for user in platform.kafka_users:
            assert platform.kafka_properties(user)["sasl.password"] not in text, (log.name, user)


def test_nobody_else_reads_the_data(platform: RunningStack) -> None:
    assert open_to_others(platform.data) == []


OWN_NAME = "(that of the brokers)"
OTHERS: Mapping[str, Mapping[str, str]] = {
    "nobody": {"security.protocol": "plaintext"},
    "a wrong password": {"sasl.password": "wrong"},
    "an unknown user": {"sasl.username": "headrace-intruder"},
    "the brokers' user without its password": {"sasl.username": OWN_NAME, "sasl.mechanism": "PLAIN"},
    "a user of the brokers' mechanism": {"sasl.mechanism": "PLAIN"},
    "the brokers' user by the users' mechanism": {"sasl.username": OWN_NAME},
}


@pytest.mark.parametrize("other", OTHERS)
def test_others_are_not_let_in(platform: RunningStack, other: str) -> None:
    properties: dict[str, Any] = {**platform.kafka_properties("observer"), **OTHERS[other]}
    if properties["sasl.username"] == OWN_NAME:
        properties["sasl.username"] = platform.kafka_properties(ADMIN)["sasl.username"]
    if other == "nobody":
        properties = {name: value for name, value in properties.items() if not name.startswith("sasl.")}
    client = AdminClient(properties, logger=QUIET)
    with pytest.raises(KafkaException):
        client.list_topics(timeout=2)


async def test_controllers_let_in_brokers_only(platform: RunningStack) -> None:
    host, port = platform.bootstrap_servers.split(":")
    admin, observer = platform.kafka_properties(ADMIN), platform.kafka_properties("observer")
    name = admin["sasl.username"]
    await kafka_serves(host, int(port), (name, admin["sasl.password"]))
    for login in (None, (name, "wrong"), (observer["sasl.username"], observer["sasl.password"])):
        with pytest.raises(NotHealthyYet):
            await kafka_serves(host, int(port) + 1, login)


SCHEMA = '{"type":"record","name":"Intruder","fields":[]}'


async def test_the_registry_is_read_by_all_and_written_by_two(platform: RunningStack) -> None:
    subject = platform.topic_prefix + TOPICS["tasks.completed"].subject
    wrong = RegistryAccess(username="provisioner", password="wrong")
    async with SchemaRegistry(platform.registry_url) as anyone:
        assert subject in await anyone.subjects()
        assert await anyone.schema(1)
        for access in (ANONYMOUS, wrong):
            async with SchemaRegistry(platform.registry_url, access=access) as other:
                with pytest.raises(RegistryAccessRefused):
                    await other.register("intruder-value", SCHEMA)
                for method, path in (("DELETE", f"/subjects/{subject}"), ("PUT", "/config")):
                    assert (await other.call(method, path, {"compatibility": "NONE"}))[0] == 401
    for user in ("provisioner", "operator"):
        async with SchemaRegistry(platform.registry_url, access=platform.registry_access(user)) as writer:
            assert await writer.register(f"of-{user}-value", SCHEMA.replace("Intruder", f"Of{user.title()}")) > 0
            # Rules of all subjects, and archives of schemas with their ids, are the operator's.
            status, _ = await writer.call("PUT", "/config", {"compatibility": "FULL_TRANSITIVE"})
            assert status == (200 if user == "operator" else 403)


async def test_what_is_ours_and_no_more_is_taken_back_and_the_rest_stays(platform: RunningStack) -> None:
    admin = AdminClient({**platform.kafka_properties(ADMIN)}, logger=QUIET)
    made: Any = importlib.import_module("confluent_kafka.admin")

    def acl(principal: str) -> Any:
        return made.AclBinding(
            made.ResourceType.TOPIC, "headrace.tasks.completed", made.ResourcePatternType.LITERAL, f"User:{principal}",
            "*", made.AclOperation.READ, made.AclPermissionType.ALLOW,
        )  # fmt: skip

    scram = made.ScramCredentialInfo(made.ScramMechanism.SCRAM_SHA_512, 4096)
    own = platform.kafka_properties(ADMIN)["sasl.username"]
    names = ("headrace-observer", "headrace-former", "team-of-ours")
    for future in admin.create_acls([acl(name) for name in names]).values():
        future.result(30)
    changes = [made.UserScramCredentialUpsertion(name, scram, b"a-password-of-16") for name in (*names[1:], own)]
    for future in admin.alter_user_scram_credentials(changes).values():
        future.result(30)
    changed = await apply_users(
        platform.kafka_properties(ADMIN),
        {user: platform.kafka_properties(user)["sasl.password"] for user in USERS},
        rights(platform.topic_prefix),
    )
    assert (changed.added, changed.removed) == (0, 2)
    every = made.AclBindingFilter(
        made.ResourceType.ANY, None, made.ResourcePatternType.ANY, None, None, made.AclOperation.ANY,
        made.AclPermissionType.ANY,
    )  # fmt: skip
    left = {each.principal for each in admin.describe_acls(every).result(30)}
    assert left >= {"User:team-of-ours", "User:headrace-observer"}
    assert "User:headrace-former" not in left
    asked: Any = admin.describe_user_scram_credentials()
    users = asked.result(30)
    assert {name for name in users if not name.startswith("headrace-")} == {"team-of-ours"}
    assert "headrace-former" not in users


async def test_a_follower_that_may_not_read_its_topic_keeps_no_other_from_reading(platform: RunningStack) -> None:
    made: Any = importlib.import_module("confluent_kafka.admin")
    topics = [f"{platform.topic_prefix}followed-{name}" for name in ("open", "closed")]
    observer = platform.kafka_properties("observer")

    def acl(topic: str, operation: Any, permission: Any) -> Any:
        return made.AclBinding(
            made.ResourceType.TOPIC, topic, made.ResourcePatternType.LITERAL,
            f"User:{observer['sasl.username']}", "*", operation, permission,
        )  # fmt: skip

    allow, deny = made.AclPermissionType.ALLOW, made.AclPermissionType.DENY
    acls = [acl(topic, made.AclOperation[name], allow) for topic in topics for name in ("DESCRIBE", "READ")]
    refused = acl(topics[1], made.AclOperation.READ, deny)
    admin = AdminClient({**platform.kafka_properties(ADMIN)}, logger=QUIET)
    log, owner = KafkaLog(observer), KafkaLog(platform.kafka_properties(ADMIN))
    await owner.admin().create_topics([NewTopic(topic, 1, 1) for topic in topics])
    producer = owner.producer()
    followers = [log.follower() for _ in topics]
    try:
        for future in admin.create_acls(acls).values():
            await asyncio.wrap_future(future)

        async def read(number: int) -> None:
            """Whether a new value arrives."""
            await producer.send(ProducerRecord(topics[number], b"value", partition=0))
            async with asyncio.timeout(30):
                while not await followers[number].poll(1, 1.0):
                    pass

        for follower, topic in zip(followers, topics, strict=True):
            # Brokers learn of a permission shortly after it was given.
            async with asyncio.timeout(30):
                while True:
                    try:
                        await follower.assign({TopicPartition(topic, 0): 0})
                        break
                    except LeaveGroup:
                        await asyncio.sleep(0.1)
        await read(0)
        await read(1)
        for future in admin.create_acls([refused]).values():
            await asyncio.wrap_future(future)
        with pytest.raises(LeaveGroup, match=r"followed-closed.*TOPIC_AUTHORIZATION_FAILED"):
            await followers[1].poll(1, 30.0)
        await read(0)
        await read(0)
        await asyncio.to_thread(_take_back, admin, made, [refused])
        async with asyncio.timeout(30):
            while True:
                try:
                    await followers[1].assign({TopicPartition(topics[1], 0): 1})
                    await read(1)
                    break
                except LeaveGroup:
                    await asyncio.sleep(0.1)
        await read(0)
    finally:
        await asyncio.gather(producer.close(), *[follower.close() for follower in followers])
        await asyncio.to_thread(_take_back, admin, made, [*acls, refused])
        for future in admin.delete_topics(topics).values():
            await asyncio.wrap_future(future)


def _take_back(admin: AdminClient, made: Any, acls: Iterable[Any]) -> None:
    exactly = [
        made.AclBindingFilter(
            each.restype, each.name, each.resource_pattern_type, each.principal, each.host, each.operation,
            each.permission_type,
        )
        for each in acls
    ]  # fmt: skip
    for future in admin.delete_acls(exactly).values():
        future.result(30)


@pytest.fixture(scope="module")
def tried(platform: RunningStack) -> list[Tried]:
    """Everything, by everyone. Afterwards, topics hold records that no service can read."""
    return try_everything(platform.kafka_properties, platform.topic_prefix)


def test_the_broker_allows_what_is_granted_and_nothing_else(tried: list[Tried]) -> None:
    assert [each for each in tried if each.allowed != each.expected] == []
    assert {each.user for each in tried} == set(USERS)
    assert {each.operation for each in tried} >= {*OPERATIONS, "group Read", "group Describe"}
    assert sum(each.allowed for each in tried) > 300, "a broker that refuses everything would do as well"


def test_what_must_never_be_is_refused(tried: list[Tried], platform: RunningStack) -> None:
    """Said once more, without asking the code that grants."""
    allowed: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for each in tried:
        if each.allowed:
            allowed[each.user, each.operation].add(each.what.removeprefix(platform.topic_prefix))
    local = {"work.local.interactive", "work.local.batch", "work.local.interactive.dlq", "work.local.batch.dlq"}
    assert not allowed["cloud-worker", "Read"] & {*local, "tasks.journal", "tasks.completed", "tasks.submitted"}
    told = {"attempts.cancelled.local", "attempts.cancelled.cloud"}
    assert {user: told & allowed[user, "Write"] for user in USERS} == {
        **{user: set() for user in USERS},
        "router": told,
    }
    for place in ("local", "cloud"):
        heard = allowed[f"{place}-worker", "Read"] & {*told, "tasks.cancelled", "tasks.cancelled.dlq"}
        assert heard == {f"attempts.cancelled.{place}"}
    without_content = {"usage.recorded", "spend.windows", "fleet.status", "audit.recorded", "attempts.started"}
    assert allowed["observer", "Read"] == without_content
    assert allowed["agent", "Write"] == {"tasks.submitted", "tasks.cancelled", "skills.submitted"}
    assert allowed["node-agent", "Write"] == allowed["node-agent", "Read"] == {"nodes.announced"}
    for user in USERS:
        assert not allowed[user, "Delete"]
        assert not (allowed[user, "Create"] | allowed[user, "Alter"]) or user == "provisioner", user
    for user in ("observer", "content-reader", "provisioner"):
        assert not allowed[user, "Write"]
    for user in ("agent", "provisioner"):
        assert not allowed[user, "Read"]
