"""A Kafka can be made secure, and open again, with what it has stored; nothing that was planted meanwhile is of use."""

import asyncio
import importlib
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from headrace_devstack.artifacts import ArtifactCache
from headrace_devstack.layout import open_data_folder
from headrace_devstack.logins import ADMIN, Logins, open_logins
from headrace_devstack.parts.java import QUICK
from headrace_devstack.parts.kafka import kafka_parts
from headrace_devstack.ports import PortPlan, choose_base
from headrace_devstack.provision import provision_users
from headrace_devstack.settings import load_settings
from headrace_devstack.status import DownloadBar
from headrace_devstack.supervisor import Supervisor
from headrace_testing.private_files import open_to_others
from headrace_testing.up import open_folder
from rich.console import Console

pytestmark = pytest.mark.timeout(300)

QUIET = logging.getLogger("headrace_testing.refused")
QUIET.disabled = True
PLANTED = "a-password-of-16"
PREFIX = "headrace."


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder("switch") as path:
        yield path


@asynccontextmanager
async def running_kafka(data: Path, *, secure: bool) -> AsyncIterator[tuple[str, Logins | None]]:
    """As `headrace up` runs it."""
    jars = ArtifactCache(load_settings().cache).fetch(DownloadBar(Console(stderr=True))).kafka_jars
    with open_data_folder(data) as folder:
        assert open_to_others(data) == []
        ports, logins = PortPlan(choose_base()), open_logins(folder) if secure else None
        admin = logins.admin if logins else None
        supervisor = Supervisor(kafka_parts(folder, ports, jars, admin, options=QUICK), lambda _: None)
        try:
            await supervisor.start()
            if logins:
                await provision_users(ports.bootstrap_servers, logins, PREFIX, seconds=60)
            yield ports.bootstrap_servers, logins
        finally:
            await supervisor.stop()


async def topics(servers: str, **login: str) -> set[str]:
    """What somebody sees. Raises KafkaException."""
    client = AdminClient({"bootstrap.servers": servers, **login}, logger=QUIET)
    return set((await asyncio.to_thread(client.list_topics, timeout=2)).topics)


async def make_topic(servers: str, name: str, **login: str) -> None:
    """Raises KafkaException."""
    client = AdminClient({"bootstrap.servers": servers, **login}, logger=QUIET)
    (asked,) = client.create_topics([NewTopic(name, 1, 1)], request_timeout=20).values()
    await asyncio.to_thread(asked.result, 30)


async def plant_passwords(servers: str, *names: str) -> None:
    """As anyone could while the stack was open."""
    made: Any = importlib.import_module("confluent_kafka.admin")
    info = made.ScramCredentialInfo(made.ScramMechanism.SCRAM_SHA_512, 4096)
    changes = [made.UserScramCredentialUpsertion(name, info, PLANTED.encode()) for name in names]
    client = AdminClient({"bootstrap.servers": servers}, logger=QUIET)
    for future in client.alter_user_scram_credentials(changes).values():
        await asyncio.to_thread(future.result, 30)


async def test_a_folder_can_be_made_secure_and_open_again(folder: Path) -> None:
    data = folder / "data"
    async with running_kafka(data, secure=False) as (servers, _):
        await make_topic(servers, "headrace.before")
        await plant_passwords(servers, "admin", "headrace-operator", "intruder")
    # As earlier versions left it.
    for path in (data, *data.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    assert len(open_to_others(data)) > 10

    async with running_kafka(data, secure=True) as (servers, logins):
        assert logins is not None
        assert open_to_others(data) == []
        with pytest.raises(KafkaException):
            await topics(servers)
        assert "headrace.before" in await topics(servers, **logins.properties("operator"))
        assert await topics(servers, **logins.properties("agent")) == set()
        # Whoever gave a name a password while the stack was open is no operator now, and may do nothing by others.
        login = {**logins.properties("operator"), "sasl.password": PLANTED}
        with pytest.raises(KafkaException):
            await topics(servers, **login)
        for name in ("admin", "intruder"):
            with pytest.raises(KafkaException) as refused:
                await make_topic(servers, "headrace.x", **{**login, "sasl.username": name})
            assert refused.value.args[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED
        await make_topic(servers, "headrace.within", **logins.properties("provisioner"))
        first = logins.properties(ADMIN)

    async with running_kafka(data, secure=False) as (servers, _):
        assert {"headrace.before", "headrace.within"} <= await topics(servers)

    with open_data_folder(data) as opened:
        assert open_logins(opened).properties(ADMIN) == first, "passwords are made once"
