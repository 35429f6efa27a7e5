"""The users that are generated for Kafka, on a real broker that refuses whatever is not allowed.

Every service runs as its own user, with the rights of the manifests and no other, and together they answer tasks. Then
the broker is asked what each user may do with each topic.
"""

from __future__ import annotations

import asyncio
import importlib
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import aiohttp
import psutil
import pytest
from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient
from headrace_contracts.topics import TOPICS
from headrace_devstack.descriptions import ServiceDescription
from headrace_devstack.kubernetes.kafka_resources import USERS, rights
from headrace_devstack.parts.kafka import new_cluster_id, server_properties
from headrace_devstack.ports import PortPlan
from headrace_devstack.services import SERVICES
from headrace_models.simulator.pace import Speed
from headrace_models.simulator.server import Simulator, SimulatorConfig
from headrace_runtime.access import make_key
from headrace_runtime.provision import ProvisionSettings, provision_within
from headrace_runtime.settings import ServiceSettings
from headrace_testing.described_services import settings_of, wiring_of
from headrace_testing.services_on_kafka import PEPPER, free_port, living
from headrace_testing.up import RunningStack
from headrace_testing.waiting import eventually
from pydantic import SecretStr

pytestmark = pytest.mark.stack

# Its names are there without being declared as exported.
acls: Any = importlib.import_module("confluent_kafka.admin")

ADMIN: Final = "admin"
PASSWORD: Final = "only-for-this-test"
PREFIX: Final = "headrace."


def properties(port: int, controller: int, data: Path) -> str:
    """A broker with a login for each user, which allows nothing that no ACL allows."""
    users = " ".join(f'user_headrace-{user}="{PASSWORD}"' for user in USERS)
    plain = "org.apache.kafka.common.security.plain.PlainLoginModule"
    return server_properties(PortPlan(0), data) + "\n".join(
        [
            f"controller.quorum.bootstrap.servers=127.0.0.1:{controller}",
            f"listeners=SASL_PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
            f"advertised.listeners=SASL_PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
            "listener.security.protocol.map=SASL_PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name=SASL_PLAINTEXT",
            "sasl.enabled.mechanisms=PLAIN",
            "sasl.mechanism.inter.broker.protocol=PLAIN",
            f'listener.name.sasl_plaintext.plain.sasl.jaas.config={plain} required username="{ADMIN}" '
            f'password="{PASSWORD}" user_{ADMIN}="{PASSWORD}" {users};',
            "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            # The controller's listener takes no logins and is open to the broker itself alone.
            f"super.users=User:{ADMIN};User:ANONYMOUS",
            "allow.everyone.if.no.acl.found=false",
            "",
        ]
    )


def login(user: str) -> dict[str, str]:
    name = user if user == ADMIN else f"headrace-{user}"
    return {
        "security.protocol": "sasl_plaintext",
        "sasl.mechanism": "PLAIN",
        "sasl.username": name,
        "sasl.password": PASSWORD,
    }


def grant(broker: str) -> None:
    """The rights of the manifests, as ACLs."""
    kinds = {"topic": acls.ResourceType.TOPIC, "group": acls.ResourceType.GROUP}
    bindings = [
        acls.AclBinding(
            kinds[right.kind],
            right.name,
            acls.ResourcePatternType.PREFIXED if right.is_prefix else acls.ResourcePatternType.LITERAL,
            f"User:headrace-{user}",
            "*",
            getattr(acls.AclOperation, "DESCRIBE_CONFIGS" if operation == "DescribeConfigs" else operation.upper()),
            acls.AclPermissionType.ALLOW,
        )
        for user, granted in rights(PREFIX).items()
        for right in granted
        for operation in right.operations
    ]
    admin = AdminClient({"bootstrap.servers": broker, **login(ADMIN)})
    for created in admin.create_acls(bindings).values():
        created.result(30)


@pytest.fixture(scope="module")
def broker(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A second broker beside the session's, of the same files, with an authorizer."""
    folder = tmp_path_factory.mktemp("kafka")
    port, controller = free_port(), free_port()
    *java, main, _ = psutil.Process(stack.pid("kafka")).cmdline()
    assert main == "kafka.Kafka"
    configuration = folder / "server.properties"
    configuration.write_text(properties(port, controller, folder / "data"))
    subprocess.run(
        [*java, "kafka.tools.StorageTool", "format", "--standalone", "--cluster-id", new_cluster_id(),
         "--config", str(configuration)],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    with (folder / "kafka.log").open("wb") as log:
        process = subprocess.Popen([*java, main, str(configuration)], stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    try:
        address = f"127.0.0.1:{port}"
        admin = AdminClient({"bootstrap.servers": address, **login(ADMIN)}, logger=None)
        for attempt in range(60):
            try:
                admin.list_topics(timeout=2)
                break
            except KafkaException:
                assert process.poll() is None, (folder / "kafka.log").read_text()[-4000:]
                assert attempt < 59, "the broker does not answer"
        grant(address)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def common(broker: str, registry_url: str, user: str) -> dict[str, Any]:
    return {
        "bootstrap_servers": broker,
        "registry_url": registry_url,
        "topic_prefix": PREFIX,
        "instance_id": f"{user}-1",
        "kafka_properties": login(user),
    }


@pytest.mark.timeout(600)
async def test_with_these_rights_and_no_other_the_services_answer_tasks(
    broker: str, registry_url: str, postgres_dsn: str
) -> None:
    await provision_within(
        ProvisionSettings(**common(broker, registry_url, "provisioner"), replication=1, provision_seconds=120)
    )
    key = make_key(b"k" * 40)
    apis = {service.name: free_port() for service in SERVICES if service.ports.api is not None}

    def settings(service: ServiceDescription, **own: Any) -> ServiceSettings:
        if service.name in apis:
            own |= {"api_port": apis[service.name], "key_pepper": SecretStr(PEPPER)}
        if service.database:
            own |= {"database_url": SecretStr(postgres_dsn)}
        return settings_of(service)(**common(broker, registry_url, service.name), **own)

    async with Simulator(SimulatorConfig(speed=Speed(None))) as simulator, AsyncExitStack() as running:
        alone: dict[str, dict[str, Any]] = {
            "intake": {"bootstrap_key": SecretStr(str(key))},
            "local-worker": {"ollama_nodes": (simulator.ollama_url("workstation"),)},
            "cloud-worker": {"groq_api_key": SecretStr("simulated"), "groq_url": simulator.groq_url},
        }
        for service in SERVICES:
            built = wiring_of(service).build(settings(service, **alone.get(service.name, {})))
            await running.enter_async_context(living(built))
        headers = {"Authorization": f"Bearer {key}", "Prefer": "wait=60"}
        async with aiohttp.ClientSession(headers=headers) as http:
            tasks = f"http://127.0.0.1:{apis['intake']}/v1/tasks"
            for body in (
                {"messages": [{"role": "user", "content": "Stay at home."}], "privacy": "sensitive"},
                {"messages": [{"role": "user", "content": "Go out."}], "privacy": "public", "mode": "cloud"},
            ):
                async with http.post(tasks, json=body) as answer:
                    task = await answer.json()
                    assert (answer.status, task.get("status")) == (200, "succeeded"), task
            skill = {"name": "rights", "body": "Ask only for what you need."}
            async with http.post(f"http://127.0.0.1:{apis['skill-broadcaster']}/v1/skills", json=skill) as answer:
                assert answer.status == 201, await answer.text()

            async def both_are_booked() -> bool:
                async with http.get(f"http://127.0.0.1:{apis['cost-accountant']}/v1/costs") as report:
                    return bool((await report.json())["total"]["executions"] >= 2)

            async def live_windows_know() -> bool:
                async with http.get(f"http://127.0.0.1:{apis['cost-accountant']}/v1/costs/live") as report:
                    return "executions" in await report.text()

            await eventually(both_are_booked, 60)
            await eventually(live_windows_know, 60)


def operations(answer: Future[Any]) -> set[str]:
    """What may be done with a topic; nothing where even its existence is not told."""
    try:
        return {one.name for one in answer.result(30).authorized_operations}
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_AUTHORIZATION_FAILED:
            raise
        return set()


def test_the_broker_says_the_same_of_every_user_and_topic(broker: str, stack: RunningStack) -> None:
    asyncio.run(provision_within(ProvisionSettings(**common(broker, stack.registry_url, "provisioner"), replication=1)))
    names = [PREFIX + spec.name for spec in TOPICS.values()]
    for user in USERS:
        admin = AdminClient({"bootstrap.servers": broker, **login(user)}, logger=None)
        asked = admin.describe_topics(TopicCollection(names), include_authorized_operations=True)
        for spec in TOPICS.values():
            allowed = operations(asked[PREFIX + spec.name])
            for operation, who, open_to in (
                ("READ", spec.readers, {"observer", "operator"}),
                ("WRITE", spec.writers, {"agent"}),
            ):
                expected = user in who or ("anyone" in who and user in open_to)
                if user == "operator":
                    expected |= spec.name.endswith(".dlq") if operation == "READ" else spec.dead_letters
                assert (operation in allowed) == expected, (user, spec.name, allowed)
