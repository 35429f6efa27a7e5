"""The passwords, users and permissions of docker-compose.yml, on a Kafka and a Postgres with its configuration.

There is no container engine here: the containers' own start scripts are not tested, what they are told is.
"""

import asyncio
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest
import yaml
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from headrace_contracts.users import principal
from headrace_devstack.compose_secrets import completed
from headrace_devstack.parts.kafka import new_cluster_id
from headrace_devstack.services import NAMES
from headrace_runtime.provision_users import UsersSettings, users_within
from headrace_streams.kafka.users import UsersChanged
from headrace_streams.rights import USERS
from headrace_testing.services_on_kafka import free_port
from headrace_testing.up import RunningStack

pytestmark = pytest.mark.stack

COMPOSE = (Path(__file__).parents[3] / "docker-compose.yml").read_text()
TEXT, _ = completed(COMPOSE, "")
SECRETS = dict(line.split("=", 1) for line in TEXT.splitlines())
ADMIN_PASSWORD = SECRETS["KAFKA_PASSWORD_ADMIN"]


def compose() -> dict[str, Any]:
    """The file as compose sees it, with its variables filled in."""
    filled = re.sub(r"\$\{([A-Z0-9_]+)(?::[?-][^}]*)?\}", lambda found: SECRETS.get(found[1], ""), COMPOSE)
    loaded: dict[str, Any] = yaml.safe_load(filled)
    return loaded


def as_property(variable: str) -> str:
    """Kafka's image makes properties of variables: _ is a dot, __ an underscore, ___ a dash."""
    name = variable.removeprefix("KAFKA_").lower()
    return name.replace("___", "-").replace("__", "\0").replace("_", ".").replace("\0", "_")


@pytest.fixture(scope="module")
def broker(stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """Kafka as compose configures it; its listeners' addresses, on other ports."""
    folder = tmp_path_factory.mktemp("kafka")
    ports = {name: f"127.0.0.1:{free_port()}" for name in ("BROKER", "CONTROLLER", "HOST")}
    environment: Mapping[str, Any] = compose()["services"]["kafka"]["environment"]
    properties = {as_property(name): str(value) for name, value in environment.items()}
    properties |= {
        "listeners": ",".join(f"{name}://{address}" for name, address in ports.items()),
        "advertised.listeners": f"BROKER://{ports['BROKER']},HOST://{ports['HOST']}",
        "controller.quorum.voters": f"1@{ports['CONTROLLER']}",
        "log.dirs": str(folder / "data"),
    }
    configuration = folder / "server.properties"
    configuration.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
    *java, main, _ = psutil.Process(stack.pid("kafka")).cmdline()
    subprocess.run(
        [*java, "kafka.tools.StorageTool", "format", "--cluster-id", new_cluster_id(), "--config", str(configuration)],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    with (folder / "kafka.log").open("wb") as log:
        process = subprocess.Popen([*java, main, str(configuration)], stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    try:
        yield ports
    finally:
        process.terminate()
        process.wait(30)


def client(properties: Mapping[str, str]) -> AdminClient:
    given: dict[str, str | int | float | bool] = {**properties}
    return AdminClient(given)


def login(service: str) -> dict[str, str]:
    """How a container logs in to Kafka, as librdkafka's properties."""
    environment = compose()["services"][service]["environment"]
    start = "HEADRACE_KAFKA_"
    return {
        name.removeprefix(start).lower().replace("_", "."): value
        for name, value in environment.items()
        if name.startswith(start)
    }


def test_users_are_made_and_log_in_as_their_containers_do(
    broker: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in compose()["services"]["users"]["environment"].items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("HEADRACE_BOOTSTRAP_SERVERS", broker["BROKER"])
    made = [asyncio.run(users_within(UsersSettings.load())) for _ in range(2)]
    assert made[0].added > 100
    assert made[1] == UsersChanged(len(USERS), added=0, removed=0)
    for service in (*NAMES, "provision"):
        given = login(service)
        assert given["sasl.username"] == principal("provisioner" if service == "provision" else service)
        # Containers use one listener, users of the machine the other.
        listener = "HOST" if service == "provision" else "BROKER"
        client({**given, "bootstrap.servers": broker[listener]}).list_topics(timeout=10)


@pytest.mark.parametrize(
    ("listener", "changed"),
    [
        ("BROKER", {"sasl.password": "wrong"}),
        ("HOST", {"security.protocol": "plaintext"}),
        # The administrator's password is of no use from outside of the containers.
        ("HOST", {"sasl.username": "admin", "sasl.mechanism": "PLAIN", "sasl.password": ADMIN_PASSWORD}),
    ],
)  # fmt: skip
def test_others_do_not(broker: Mapping[str, str], listener: str, changed: Mapping[str, str]) -> None:
    given = {**login("router"), "bootstrap.servers": broker[listener], "log_level": "0", **changed}
    with pytest.raises(KafkaException):
        client(given).list_topics(timeout=2)


async def test_each_service_has_a_database_user_that_sees_no_other_s_tables(stack: RunningStack) -> None:
    made = compose()["configs"]["postgres-init"]["content"]
    statements = [line.strip().rstrip(";") for line in made.strip().splitlines()]
    name = stack.database_url.rpartition("/")[2]
    admin = await asyncpg.connect(stack.database_url)
    roles = re.findall(r"CREATE ROLE (\w+)", made)
    assert sorted(roles) == ["cost_accountant", "intake", "registry", "router"]
    connections = []
    try:
        for statement in statements:
            await admin.execute(statement.replace("DATABASE headrace", f'DATABASE "{name}"'))
        for role in ("intake", "cost_accountant", "router"):
            url = compose()["services"][role.replace("_", "-")]["environment"]["HEADRACE_DATABASE_URL"]
            assert url == f"postgresql://{role}:{SECRETS[f'POSTGRES_PASSWORD_{role.upper()}']}@postgres:5432/headrace"
            server = stack.database_url.partition("@")[2]
            connections.append(await asyncpg.connect(f"{url.partition('@')[0]}@{server}"))
        intake, accountant, router = connections
        await intake.execute("CREATE SCHEMA of_intake; CREATE TABLE of_intake.kept AS SELECT 1 AS answer")
        for other in (accountant, router):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await other.fetch("SELECT * FROM of_intake.kept")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await accountant.execute("CREATE ROLE intruder SUPERUSER")
    finally:
        for connection in connections:
            await connection.close()
        await admin.execute("DROP SCHEMA IF EXISTS of_intake CASCADE")
        await admin.execute("DROP DATABASE IF EXISTS registry")
        for role in roles:
            await admin.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
        await admin.close()
