"""One Kafka broker or three: their settings, and which number a data folder takes."""

import asyncio
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from headrace_devstack.errors import KeepTheBrokers
from headrace_devstack.layout import open_data_folder
from headrace_devstack.parts.kafka import kafka_parts, server_properties
from headrace_devstack.parts.part import NotHealthyYet
from headrace_devstack.parts.probes import kafka_serves
from headrace_devstack.ports import LOOPBACK, PortPlan
from headrace_devstack.settings import load_settings
from headrace_devstack.stack import choose_brokers

JARS = (Path("/jars/kafka.jar"),)


def properties(brokers: int, node: int) -> dict[str, str]:
    text = server_properties(PortPlan(20_000, brokers), Path("/data"), node)
    return dict(line.split("=", 1) for line in text.splitlines())


@pytest.mark.parametrize(("brokers", "copies", "in_sync"), [(1, "1", "1"), (3, "3", "2")])
def test_every_broker_has_a_copy_of_everything_and_of_three_one_may_be_missing(
    brokers: int, copies: str, in_sync: str
) -> None:
    for node in range(1, brokers + 1):
        found = properties(brokers, node)
        replicas = {value for name, value in found.items() if name.endswith("replication.factor")}
        assert replicas == {copies}
        assert {value for name, value in found.items() if name.endswith(("min.isr", "min.insync.replicas"))} == {
            in_sync
        }


@pytest.mark.parametrize(("brokers", "node"), [(1, 1), (3, 1), (3, 3)])
def test_a_secure_broker_lets_nobody_in_without_a_login(brokers: int, node: int) -> None:
    text = server_properties(PortPlan(20_000, brokers), Path("/data"), node, ("own", "of-the-brokers"))
    found = dict(line.split("=", 1) for line in text.splitlines())
    protocols = dict(pair.split(":") for pair in found["listener.security.protocol.map"].split(","))
    assert {one.split(":")[0] for one in found["listeners"].split(",")} == protocols.keys() == {"BROKER", "CONTROLLER"}
    assert set(protocols.values()) == {"SASL_PLAINTEXT"}
    assert found["allow.everyone.if.no.acl.found"] == "false"
    assert found["super.users"] == "User:own"
    # Of the passwords, only that of the brokers is here.
    assert {name for name in found if "of-the-brokers" in found[name]} == {
        "listener.name.broker.plain.sasl.jaas.config", "listener.name.controller.plain.sasl.jaas.config",
    }  # fmt: skip


def test_what_a_broker_stores_is_the_same_open_and_secure() -> None:
    text = server_properties(PortPlan(20_000), Path("/data"), 1, ("own", "of-the-brokers"))
    secure, opened = dict(line.split("=", 1) for line in text.splitlines()), properties(1, 1)
    differs = {name for name in secure.keys() | opened.keys() if secure.get(name) != opened.get(name)}
    assert all("sasl" in name or "security" in name or "super" in name or "acl" in name or "authorizer" in name
               for name in differs)  # fmt: skip


def test_three_brokers_vote_for_each_other_at_addresses_of_their_own() -> None:
    found = [properties(3, node) for node in (1, 2, 3)]
    assert len({one["controller.quorum.voters"] for one in found}) == 1
    voters = found[0]["controller.quorum.voters"].split(",")
    for node, one in enumerate(found, start=1):
        assert one["node.id"] == str(node)
        controller = one["listeners"].split("CONTROLLER://")[1]
        assert f"{node}@{controller}" in voters
    assert len({one["listeners"] for one in found}) == 3


def test_parts_are_named_apart_and_have_folders_and_logs_of_their_own(tmp_path: Path) -> None:
    with open_data_folder(tmp_path / "one") as folder:
        assert [part.name for part in kafka_parts(folder, PortPlan(20_000), JARS)] == ["kafka"]
    with open_data_folder(tmp_path / "three") as folder:
        parts = kafka_parts(folder, PortPlan(20_000, 3), JARS)
        assert [part.name for part in parts] == ["kafka-1", "kafka-2", "kafka-3"]
        assert len({part.command.folder for part in parts}) == len({part.command.log for part in parts}) == 3


@pytest.mark.parametrize(
    ("there", "wanted", "chosen"),
    [
        ((), None, 1),
        ((), 1, 1),
        ((), 3, 3),
        (("kafka",), None, 1),
        (("kafka",), 1, 1),
        (("kafka-1", "kafka-2", "kafka-3"), None, 3),
        (("kafka-1", "kafka-2", "kafka-3"), 3, 3),
        (("kafka-2",), None, 3),  # a first start that was interrupted
    ],
)
def test_a_folder_keeps_its_number_of_brokers(
    tmp_path: Path, there: Sequence[str], wanted: int | None, chosen: int
) -> None:
    for name in there:
        (tmp_path / name / "data").mkdir(parents=True)
    with open_data_folder(tmp_path) as folder:
        assert choose_brokers(wanted, folder) == chosen


@pytest.mark.parametrize(("there", "wanted"), [("kafka", 3), ("kafka-1", 1), ("kafka-3", 1)])
def test_another_number_is_refused_with_what_to_do(tmp_path: Path, there: str, wanted: int) -> None:
    (tmp_path / there / "data").mkdir(parents=True)
    with open_data_folder(tmp_path) as folder, pytest.raises(KeepTheBrokers) as refused:
        choose_brokers(wanted, folder)
    has = 4 - wanted
    assert f"was started with {has} Kafka broker" in refused.value.problem
    assert f"--brokers {has}" in refused.value.remedy
    assert "--data DIR" in refused.value.remedy


def test_a_folder_that_was_never_formatted_is_open_to_both(tmp_path: Path) -> None:
    with open_data_folder(tmp_path) as folder:
        kafka_parts(folder, PortPlan(20_000), JARS)
        assert choose_brokers(3, folder) == 3


def test_brokers_share_one_cluster_id_made_once(tmp_path: Path) -> None:
    with open_data_folder(tmp_path) as folder:
        assert folder.kafka_cluster_id(lambda: "first") == folder.kafka_cluster_id(lambda: "second") == "first"


@pytest.mark.parametrize(("given", "read"), [("1", 1), ("3", 3), ("", None)])
def test_the_number_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch, given: str, read: int | None) -> None:
    monkeypatch.setenv("HEADRACE_BROKERS", given)
    assert load_settings().brokers == read


# The health check, against what an answer can look like. Real brokers: tests/integration/devstack.


def metadata(*ports: int, rack: str | None = None) -> bytes:
    racks = struct.pack(">h", -1) if rack is None else struct.pack(">h", len(rack)) + rack.encode()
    host = LOOPBACK.encode()
    listed = (
        struct.pack(">ih", node, len(host)) + host + struct.pack(">i", port) + racks for node, port in enumerate(ports)
    )
    return struct.pack(">i", len(ports)) + b"".join(listed) + struct.pack(">ii", 1, 0)


async def probe(answer: Callable[[int], bytes]) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes(await reader.readexactly(4))
        correlation = (await reader.readexactly(size))[4:8]
        body = correlation + answer(port)
        writer.write(len(body).to_bytes(4) + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, LOOPBACK, 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        await kafka_serves(LOOPBACK, port)


@pytest.mark.parametrize(
    "answer",
    [
        lambda own: metadata(own),
        lambda own: metadata(1, own, 2),
        lambda own: metadata(1, 2, own, rack="r1"),
    ],
)
async def test_a_broker_that_the_cluster_counts_is_healthy(answer: Callable[[int], bytes]) -> None:
    await probe(answer)


@pytest.mark.parametrize(
    "answer",
    [
        lambda _: metadata(),
        lambda _: metadata(1, 2),
        lambda _: b"",
        lambda _: struct.pack(">i", 7) + b"\0" * 9,
        lambda own: metadata(own)[:-12],
    ],
)
async def test_one_that_it_does_not_count_or_that_answers_nonsense_is_not(answer: Callable[[int], bytes]) -> None:
    with pytest.raises(NotHealthyYet):
        await probe(answer)


@pytest.mark.parametrize(("refusing", "says"), [("handshake", "error code 33"), ("login", "error code 58"), ("", None)])
async def test_the_health_check_logs_in_where_it_must(refusing: str, says: str | None) -> None:
    asked: list[tuple[int, bytes]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        refused = {17: (33 if refusing == "handshake" else 0), 36: (58 if refusing == "login" else 0)}
        while True:
            try:
                size = int.from_bytes(await reader.readexactly(4))
            except asyncio.IncompleteReadError:
                writer.close()
                return
            request = await reader.readexactly(size)
            api = int.from_bytes(request[:2])
            asked.append((api, request))
            body = request[4:8] + (refused[api].to_bytes(2) + b"\0\0" if api in refused else metadata(port))
            writer.write(len(body).to_bytes(4) + body)
            await writer.drain()

    server = await asyncio.start_server(serve, LOOPBACK, 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        if says is None:
            await kafka_serves(LOOPBACK, port, ("admin", "a-password"))
            assert [api for api, _ in asked] == [17, 36, 3]
            assert asked[1][1].endswith(b"\0admin\0a-password")
        else:
            with pytest.raises(NotHealthyYet, match=says):
                await kafka_serves(LOOPBACK, port, ("admin", "a-password"))
