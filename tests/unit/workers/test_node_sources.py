"""Which nodes follow from what several sources say, and whose word counts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from headrace_contracts.events import NodeAnnounced
from headrace_contracts.model_settings import NodeDefaults
from headrace_local_worker.decide.announced import announced_node
from headrace_local_worker.decide.balancing import choose_node
from headrace_local_worker.decide.membership import changes
from headrace_local_worker.decide.merging import SourceName, merged
from headrace_local_worker.decide.nodes import NodesInvalid, NodeSpec, parse_nodes
from headrace_local_worker.decide.srv_records import (
    SrvTarget,
    again_seconds,
    nodes_of_targets,
    parse_srv_names,
    stands_seconds,
)
from headrace_local_worker.discovery import Discovery, StaticNodes
from headrace_local_worker.settings import LocalWorkerSettings, TokenMissing
from headrace_models.worker.endpoint import Endpoint
from headrace_models.worker.pool import Pool
from headrace_testing.workers import ScriptedProvider
from pydantic import ValidationError


def node(name: str, url: str = "http://10.0.0.1:11434", slots: int = 4, **changes: Any) -> NodeSpec:
    return NodeSpec(name, url, slots, **changes)


def named(*specs: NodeSpec) -> Mapping[str, NodeSpec]:
    return {spec.name: spec for spec in specs}


def test_one_node_of_several_sources_is_what_the_first_of_them_says() -> None:
    found = merged({
        "dns": named(node("10.0.0.1", "http://10.0.0.1:11434", 1)),
        "announced": named(node("laptop", "http://10.0.0.1:11434/", 2), node("mac", "http://mac.lan:11434", 3)),
        "static": named(node("big", "http://10.0.0.1:11434", 8)),
    })  # fmt: skip
    assert {name: (spec.url, spec.slots) for name, spec in found.nodes.items()} == {
        "big": ("http://10.0.0.1:11434", 8),
        "mac": ("http://mac.lan:11434", 3),
    }


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("http://Mac.lan:80", "http://mac.lan", True),
        ("https://mac.lan.", "https://mac.lan:443/", True),
        ("http://mac.lan:11434", "https://mac.lan:11434", True),
        ("http://mac.lan:11434", "http://mac.lan:11435", False),
        ("http://127.0.0.1:1/ollama/a", "http://127.0.0.1:1/ollama/b", False),
    ],
)
def test_nodes_are_one_by_host_and_port(one: str, other: str, same: bool) -> None:
    found = merged({"static": named(node("a", one)), "dns": named(node("b", other))})
    assert (set(found.nodes) == {"a"}) is same


def test_a_drained_node_is_drained_whoever_names_it() -> None:
    found = merged({
        "static": named(node("big")),
        "announced": named(node("laptop", drained="its owner plays", silent=True)),
    })  # fmt: skip
    assert found.nodes["big"].withheld == "drained: its owner plays"
    assert not found.nodes["big"].silent, "an operator's list holds without an agent"


def test_a_name_that_is_taken_is_made_another_one() -> None:
    found = merged({
        "static": named(node("laptop", "http://10.0.0.1:1")),
        "announced": named(node("laptop", "http://10.0.0.2:2")),
    })  # fmt: skip
    assert {name: spec.url for name, spec in found.nodes.items()} == {
        "laptop": "http://10.0.0.1:1",
        "laptop@10.0.0.2:2": "http://10.0.0.2:2",
    }
    assert found.renamed == {"laptop": "laptop@10.0.0.2:2"}


def test_one_source_may_name_an_address_twice() -> None:
    assert set(merged({"static": named(node("a"), node("b"))}).nodes) == {"a", "b"}


def test_another_token_is_another_way_to_a_node() -> None:
    before, now = named(node("a")), named(node("a", token_env="TOKEN_A"))
    assert changes(before, now).joined == (now["a"],)


SAID = NodeAnnounced(node="laptop", url="http://10.0.0.7:11435/", slots=2, agent="x", started_at=1, announced_at=2)


def test_what_an_agent_says_of_its_models_is_read_or_objected_to() -> None:
    found = announced_node(replace(SAID, settings={"num_ctx": "8192", "slots.m": "2"}), "")
    assert isinstance(found, NodeSpec)
    assert found.defaults == NodeDefaults(num_ctx=8_192, parallel={"m": 2})
    wrong = announced_node(replace(SAID, settings={"num_ctx": "8k"}), "")
    assert isinstance(wrong, str)
    assert "num_ctx must be a whole number" in wrong
    assert wrong.endswith("correct its --set")
    endpoint = Endpoint(ScriptedProvider("a"), 4, parallel={"m": 1, "n:latest": 2})
    assert [endpoint.room(model, 0.0, alone=True) for model in ("m", "m:latest", "n", "other")] == [1, 1, 2, 4]
    (srv,) = parse_srv_names(["_ollama._tcp.example.org;num_ctx=4096;gpu=x"])
    (of_srv,) = nodes_of_targets(srv, [SrvTarget("a.example.org", 11434)], 1).values()
    assert (of_srv.defaults.num_ctx, of_srv.hardware) == (4_096, {"gpu": "x"})


def test_an_announcement_becomes_a_node_of_its_site() -> None:
    assert announced_node(replace(SAID, labels={"gpu": "m3"}), "") == node(
        "laptop", "http://10.0.0.7:11435", 2, hardware={"gpu": "m3"}
    )
    assert announced_node(replace(SAID, site="berlin"), "") is None
    assert isinstance(announced_node(replace(SAID, site="berlin"), "berlin"), NodeSpec)
    drained = announced_node(replace(SAID, drained=True, reason="its agent stops"), "")
    assert isinstance(drained, NodeSpec)
    assert drained.withheld == "drained: its agent stops"


@pytest.mark.parametrize(
    "url",
    [
        "", "laptop:11434", "ftp://laptop", "http://", "http://laptop:0", "http://laptop:99999", "http://a b",
        "http://user:secret@laptop:11434", "http://laptop:11434?x=1", "http://laptop/#x", "http://[::1", "http://läp",
        f"http://{'a' * 3000}", "https://ollama.com",
    ],
)  # fmt: skip
def test_an_announced_address_that_is_none_is_refused(url: str) -> None:
    assert "correct its --url" in str(announced_node(replace(SAID, url=url), ""))


@pytest.mark.parametrize("slots", [0, -1, 5_000])
def test_announced_slots_have_limits(slots: int) -> None:
    assert "correct its --slots" in str(announced_node(replace(SAID, slots=slots), ""))


def test_announced_labels_have_limits() -> None:
    found = announced_node(replace(SAID, labels={str(n): "v" for n in range(100)} | {"": "x", "long": "y" * 999}), "")
    assert isinstance(found, NodeSpec)
    assert len(found.hardware) <= 32
    assert not {"", "long"} & found.hardware.keys()


def test_names_of_records_come_with_what_holds_for_their_nodes() -> None:
    (name,) = parse_srv_names(["_ollama._tcp.example.org.;slots=2;scheme=https;gpu=a100;token_env=GPU_TOKEN"])
    targets = [SrvTarget("Big.example.org.", 443), SrvTarget("small.example.org.", 11434), SrvTarget(".", 0)]
    targets.append(SrvTarget("api.openai.com.", 443))
    assert nodes_of_targets(name, targets, 4) == {
        "big.example.org:443": node(
            "big.example.org:443", "https://big.example.org:443", 2, hardware={"gpu": "a100"}, token_env="GPU_TOKEN"
        ),
        "small.example.org": node(
            "small.example.org", "https://small.example.org:11434", 2, hardware={"gpu": "a100"}, token_env="GPU_TOKEN"
        ),
    }


@pytest.mark.parametrize(
    "entry", ["example.org", "_ollama._udp.example.org", "_o._tcp.x;scheme=ftp", "_o._tcp.x;slots=0"]
)
def test_a_name_that_is_none_is_refused(entry: str) -> None:
    with pytest.raises(NodesInvalid):
        parse_srv_names([entry])


def test_answers_stand_as_long_as_they_say_within_limits() -> None:
    assert [stands_seconds(ttl) for ttl in (0, 60, 86_400)] == [5.0, 60, 300.0]
    assert [again_seconds(failures) for failures in (1, 2, 3, 9, 10_000)] == [5.0, 10.0, 20.0, 60.0, 60.0]


def test_an_entry_names_the_variable_of_its_token_and_never_the_token() -> None:
    (big,) = parse_nodes(["big=https://10.0.0.7:11435;token_env=BIG_TOKEN;gpu=a100"], 4)
    assert (big.token_env, big.hardware) == ("BIG_TOKEN", {"gpu": "a100"})
    with pytest.raises(NodesInvalid, match="not the token itself"):
        parse_nodes(["big=https://10.0.0.7:11435;token_env=s3cr3t-t0ken"], 4)


def test_a_token_comes_from_its_variable_else_from_that_of_all() -> None:
    settings = LocalWorkerSettings.load({"HEADRACE_NODE_TOKEN": "of all", "BIG_TOKEN": "of big"})
    token = settings.token_of(node("big", token_env="BIG_TOKEN"))
    assert token is not None
    assert token.get_secret_value() == "of big"
    other = settings.token_of(node("other"))
    assert other is not None
    assert other.get_secret_value() == "of all"
    with pytest.raises(TokenMissing, match="MISSING is not set"):
        settings.token_of(node("third", token_env="MISSING"))


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"HEADRACE_DISCOVERY": "static,zeroconf"}, "one or several of static"),
        ({"HEADRACE_DISCOVERY": "announced"}, "needs HEADRACE_KEY_PEPPER"),
        ({"HEADRACE_DISCOVERY": "dns"}, "needs HEADRACE_DISCOVERY_DNS"),
        ({"HEADRACE_NODE_TLS_CERT": "/x"}, "must be set together"),
        ({"HEADRACE_NODE_TLS_CA": "/nowhere/ca.pem"}, "/nowhere/ca.pem cannot be used: No such file"),
    ],
)
def test_settings_say_what_a_source_needs(
    given: Mapping[str, str], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match=problem):
        LocalWorkerSettings()


class ToldNodes:
    """A source that says what a test tells it."""

    peers = ()

    def __init__(self, name: SourceName) -> None:
        self.name = name
        self.nodes: Mapping[str, NodeSpec] | None = None
        self._changed: Callable[[], None] = lambda: None

    async def follow(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        await asyncio.Event().wait()

    async def close(self) -> None: ...

    def tell(self, *specs: NodeSpec) -> None:
        self.nodes = named(*specs)
        self._changed()


def endpoint(spec: NodeSpec) -> Endpoint:
    return Endpoint(ScriptedProvider(node=spec.name), spec.slots, spec.hardware)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - looks on
            await asyncio.sleep(0.005)


async def test_a_source_without_an_answer_holds_up_the_others_only_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace_local_worker.discovery._OTHERS_SECONDS", 0.1)
    pool, silent = Pool((), choose_node), ToldNodes("dns")
    discovery = Discovery([StaticNodes([node("big")]), silent], pool, "w1", endpoint)
    await asyncio.wait_for(discovery.start(), 2)
    assert set(pool.endpoints) == {"big"}
    running = asyncio.create_task(discovery.run())
    silent.tell(node("late", "http://10.0.0.2:11434"))
    await until(lambda: set(pool.endpoints) == {"big", "late"})
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await discovery.stop()


async def test_a_node_that_its_agent_drains_is_withheld_and_comes_back() -> None:
    pool, agents = Pool((), choose_node), ToldNodes("announced")
    discovery = Discovery([agents], pool, "w1", endpoint)
    starting = asyncio.create_task(discovery.start())
    await asyncio.sleep(0.01)
    assert discovery.waits() == "nodes by announced are not known yet"
    agents.tell(node("mac"))
    await starting
    assert discovery.waits() is None
    running = asyncio.create_task(discovery.run())
    held = pool.endpoints["mac"]
    held.seen(held.provider.current)  # type: ignore[attr-defined]
    agents.tell(node("mac", drained="lunch"))
    await until(lambda: held.objection(0.0) == "drained: lunch")
    agents.tell(node("mac"))
    await until(lambda: held.objection(0.0) is None)
    assert pool.endpoints["mac"] is held
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await discovery.stop()
