"""`headrace doctor` and Ollama nodes: which answer, and which list models that they do not run."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from importlib.metadata import EntryPoint
from typing import Any

import pytest
from aiohttp import web
from headrace.addresses import Addresses
from headrace.cli.checkups import Finding, examine
from headrace.cli.doctor import exit_code, line
from headrace_devstack.ollama_checkup import VARIABLE, examine_nodes, finding_of
from headrace_models.simulator import Simulator, SimulatorConfig, Speed

OWN = {"name": "phi3:3.8b", "model": "phi3:3.8b", "size": 1}
CLOUD = {"name": "gpt-oss:120b-cloud", "remote_host": "https://ollama.com:443", "remote_model": "gpt-oss:120b"}
COPY = {"name": "house-assistant:latest", "remote_host": "https://ollama.com:443", "remote_model": "glm-4.6"}


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)


class Node:
    """A server of Ollama's paths with these answers; one that is text is sent as it is."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {"version": {"version": "0.32.15"}, "tags": {"models": [OWN]}}
        self.redirects_to: str | None = None
        self.url = ""

    async def answer(self, request: web.Request) -> web.Response:
        if self.redirects_to is not None:
            raise web.HTTPFound(self.redirects_to)
        document = self.answers.get(request.match_info["name"])
        if document is None:
            raise web.HTTPNotFound
        return web.Response(text=document if isinstance(document, str) else json.dumps(document))

    async def findings(self) -> list[Finding]:
        return list(await examine_nodes(Addresses(stack={"ollama_nodes": f"mine={self.url};slots=2"})))


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    node = Node()
    app = web.Application()
    app.router.add_get("/api/{name}", node.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    node.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield node
    await runner.cleanup()


@pytest.mark.parametrize(
    ("entries", "names"),
    [
        ([OWN, CLOUD], ["gpt-oss:120b-cloud (https://ollama.com:443)"]),
        ([COPY], ["house-assistant:latest (https://ollama.com:443)"]),
        ([{"name": "kimi-k2:cloud"}, OWN], ["kimi-k2:cloud"]),
        ([{"model": "deepseek-v3.1:671b-cloud"}], ["deepseek-v3.1:671b-cloud"]),
        ([{"name": "x:1b", "remote_host": "http://10.0.0.9:11434"}], ["x:1b (http://10.0.0.9:11434)"]),
        ([{"name": f"m{number}:cloud"} for number in range(9)], ["m0:cloud", "m4:cloud", "and 4 more"]),
        ([{"name": "evil\x1b[2J\n:cloud"}], ["evil\ufffd[2J\ufffd:cloud"]),
    ],
)
async def test_a_node_that_lists_models_of_another_host_is_warned_of(
    node: Node, entries: list[Mapping[str, Any]], names: list[str]
) -> None:
    node.answers["tags"] = {"models": entries}
    (found,) = await node.findings()
    assert (found.part, found.ok, found.warning) == ("ollama mine", True, True)
    for name in names:
        assert name in found.detail
    assert "phi3" not in found.detail
    for step in ("OLLAMA_NO_CLOUD=1", "disable_ollama_cloud", "ollama rm"):
        assert step in found.remedy
    assert exit_code([found]) == 0
    shown = line(found, 20).plain
    assert shown.startswith("! ollama mine")
    assert "what to do: set OLLAMA_NO_CLOUD=1" in shown


@pytest.mark.parametrize("entries", [[], [OWN], [OWN, {"name": "cloudy:7b"}, {"name": "x", "remote_host": ""}]])
async def test_a_node_that_runs_all_that_it_lists_is_in_order(node: Node, entries: list[Mapping[str, Any]]) -> None:
    node.answers["tags"] = {"models": entries}
    (found,) = await node.findings()
    assert (found.ok, found.warning, found.remedy) == (True, False, "")
    assert found.detail == ("runs 1 model" if len(entries) == 1 else f"runs {len(entries)} models")


@pytest.mark.parametrize(
    ("status", "is_off"),
    [
        ({"cloud": {"disabled": True, "source": "env"}}, True),
        ({"cloud": {"disabled": False, "source": "none"}}, False),
        ({"cloud": "disabled"}, False),
        ("no JSON", False),
        (None, False),
    ],
)
async def test_where_the_cloud_is_disabled_already_only_the_models_are_to_be_removed(
    node: Node, status: Any, is_off: bool
) -> None:
    node.answers |= {"tags": {"models": [CLOUD]}, "status": status}
    (found,) = await node.findings()
    assert found.warning
    assert ("OLLAMA_NO_CLOUD" not in found.remedy) == is_off
    assert "ollama rm" in found.remedy


@pytest.mark.parametrize(
    ("path", "answer", "detail"),
    [
        ("version", None, "answered 404"),
        ("version", "<html>", "does not answer in JSON"),
        ("tags", "[1]", "does not answer with a document"),
        ("tags", {"models": "many"}, "lists no models as ollama does"),
        ("tags", "x" * 5_000_000, "more than a list of models"),
    ],
)
async def test_what_is_not_ollama_is_named(node: Node, path: str, answer: Any, detail: str) -> None:
    node.answers[path] = answer
    (found,) = await node.findings()
    assert not found.ok
    assert detail in found.detail
    assert VARIABLE in found.remedy
    assert exit_code([found]) == 1


async def test_a_node_that_is_down_or_sends_us_elsewhere(node: Node) -> None:
    node.redirects_to = "http://127.0.0.1:9/"
    (found,) = await node.findings()
    assert (found.ok, "answered 302" in found.detail) == (False, True)
    down, invalid = "http://user:hunter2@127.0.0.1:9", "ftp://x"
    (found,) = await examine_nodes(Addresses(stack={"ollama_nodes": down}))
    assert (found.unreachable, "does not answer" in found.detail, "hunter2" in str(found)) == (True, True, False)
    (found,) = await examine_nodes(Addresses(stack={"ollama_nodes": invalid}))
    assert (found.ok, "is not an address" in found.detail) == (False, True)


async def test_the_variable_comes_before_the_stack_and_without_both_nothing_is_said(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await examine_nodes(Addresses()) == []
    assert await examine_nodes(Addresses(stack={"ollama_nodes": ""})) == []
    monkeypatch.setenv(VARIABLE, f"one={node.url}, two={node.url};slots=3")
    found = await examine_nodes(Addresses(stack={"ollama_nodes": "http://127.0.0.1:9"}))
    assert [each.part for each in found] == ["ollama one", "ollama two"]


async def test_the_simulator_s_planted_models_are_shown_and_need_no_remedy() -> None:
    async with Simulator(SimulatorConfig(speed=Speed(None))) as simulator:
        nodes = f"{simulator.ollama_url('workstation')},{simulator.ollama_url('remote-1')}"
        found = await examine_nodes(Addresses(stack={"ollama_nodes": nodes}))
    assert [(each.part, each.ok, each.warning) for each in found] == [
        ("ollama workstation", True, False), ("ollama remote-1", True, False),
    ]  # fmt: skip
    for each, name in zip(found, ("gpt-oss:120b-cloud", "team-helper:latest"), strict=True):
        assert name in each.detail
        assert "planted by the simulator" in each.detail


async def test_doctor_runs_the_checks_of_other_packages(node: Node) -> None:
    node.answers["tags"] = {"models": [OWN, COPY]}
    plugin = EntryPoint("ollama", "headrace_devstack.ollama_checkup:examine_nodes", "headrace.checkups")
    addresses = Addresses(stack={"ollama_nodes": f"mine={node.url}"})
    found = {each.part: each for each in await examine(addresses, [plugin])}
    assert found["ollama mine"].warning
    assert "ollama mine" not in {each.part for each in await examine(addresses)}


def test_a_warning_changes_no_exit_code() -> None:
    fine, broken = Finding("kafka", True, ""), Finding("router", False, "")
    warned = finding_of("ollama mine", [CLOUD], simulated=False, cloud_off=False)
    assert [exit_code(found) for found in ([fine, warned], [broken, warned], [warned])] == [0, 1, 0]


async def test_a_server_of_another_kind_is_asked_in_its_own_way() -> None:
    models = {"box": ("gemma2:2b", "gpt-oss:120b-cloud")}
    async with Simulator(SimulatorConfig(speed=Speed(None), nodes=models)) as simulator:
        nodes = f"mine={simulator.vllm_url('box')};server=vllm,wrong={simulator.url};server=vllm"
        good, wrong = await examine_nodes(Addresses(stack={"ollama_nodes": nodes}))
    assert (good.part, good.ok) == ("vllm mine", True)
    assert good.detail.startswith("runs 1 model; lists 1 model that another host runs")
    assert not wrong.ok
    assert wrong.detail.endswith("/v1 answered 404")
