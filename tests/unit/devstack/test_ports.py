"""Ports: one block per stack, and an answer to who has a port that is taken."""

import os
import socket
from collections.abc import Iterator

import psutil
import pytest
from headrace_devstack.descriptions import OTHER_PORTS
from headrace_devstack.errors import FreeThePort
from headrace_devstack.ports import (
    BLOCK,
    LOOPBACK,
    MOST_BROKERS,
    PortPlan,
    choose_base,
    is_free,
    owner_of,
    require_free,
)
from headrace_devstack.services import SERVICES


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server((LOOPBACK, 0)) as server:
        yield server.getsockname()[1]


def test_a_plan_stays_in_its_block_without_collisions() -> None:
    plan = PortPlan(19_080, MOST_BROKERS)
    assert len(plan.all()) == len(OTHER_PORTS) + sum(1 + (service.ports.api is not None) for service in SERVICES)
    assert set(plan.all()) <= set(range(19_080, 19_080 + BLOCK))


@pytest.mark.parametrize("brokers", [1, 2, MOST_BROKERS])
def test_only_brokers_that_run_need_ports(brokers: int) -> None:
    plan = PortPlan(20_000, brokers)
    kafka = {port for port, part in plan.all().items() if part.startswith("kafka")}
    assert kafka == {plan.broker(node) for node in plan.nodes} | {plan.controller(node) for node in plan.nodes}
    assert len(kafka) == 2 * brokers
    assert plan.bootstrap_servers.split(",") == [f"{LOOPBACK}:{plan.broker(node)}" for node in plan.nodes]
    assert plan.broker(1) == PortPlan(20_000).broker(1), "a client of the first one needs no other address"


def test_a_taken_port_is_seen_and_its_owner_named(taken: int) -> None:
    assert not is_free(taken)
    assert owner_of(taken) == f"{psutil.Process().name()} (pid {os.getpid()})"


def test_the_error_says_which_port_for_what_by_whom_and_what_to_do(taken: int) -> None:
    with pytest.raises(FreeThePort) as raised:
        require_free([(taken, "kafka")])
    text = str(raised.value)
    assert f"port {taken}, needed by kafka, is in use by" in text
    assert f"(pid {os.getpid()})" in text
    assert "--port-base" in text


def test_all_taken_ports_are_named_at_once() -> None:
    with pytest.raises(FreeThePort, match=r"port 1, needed by a.*port 3, needed by c"):
        require_free([(1, "a"), (2, "b"), (3, "c")], free=lambda port: port == 2, who=lambda _: "somebody")


def test_free_ports_pass() -> None:
    require_free([(1, "a")], free=lambda _: True)


def test_a_block_is_chosen_whole() -> None:
    base = choose_base(free=lambda port: port >= 26_000)
    assert base >= 26_000


def test_a_block_has_room_for_all_brokers_that_its_folder_may_get_later() -> None:
    third = PortPlan(0, MOST_BROKERS).controller(MOST_BROKERS)
    base = choose_base(free=lambda port: port % BLOCK != third % BLOCK or port >= 26_000)
    assert base + third >= 26_000


def test_no_block_at_all_is_an_error() -> None:
    with pytest.raises(FreeThePort):
        choose_base(free=lambda _: False)
