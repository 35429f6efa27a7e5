"""The local worker's nodes, and which of them runs an attempt."""

from __future__ import annotations

from typing import Any

import pytest
from headrace_cloud_worker.settings import CloudWorkerSettings
from headrace_contracts.model_settings import NodeDefaults
from headrace_local_worker.decide.balancing import choose_node
from headrace_local_worker.decide.membership import changes
from headrace_local_worker.decide.nodes import NodesInvalid, NodeSpec, parse_nodes
from headrace_local_worker.settings import LocalWorkerSettings
from headrace_models.worker.endpoint import EndpointView
from headrace_runtime.settings import SettingsInvalid
from headrace_streams.kafka.properties import consumer_properties


def test_nodes_have_names_slots_and_labels() -> None:
    entries = (
        "http://127.0.0.1:11434",
        "http://gpu-box:11434/",
        "http://10.0.0.2:8080",
        "http://127.0.0.1:11480/ollama/workstation",
        "big=https://user:secret@models.example/ollama?x=y ; slots=8 ; gpu=rtx 4060 ; ram=64",
    )
    assert parse_nodes(entries, 4) == (
        NodeSpec("127.0.0.1", "http://127.0.0.1:11434", 4),
        NodeSpec("gpu-box", "http://gpu-box:11434", 4),
        NodeSpec("10.0.0.2:8080", "http://10.0.0.2:8080", 4),
        NodeSpec("workstation", "http://127.0.0.1:11480/ollama/workstation", 4),
        NodeSpec("big", "https://user:secret@models.example/ollama?x=y", 8, {"gpu": "rtx 4060", "ram": "64"}),
    )


def test_a_node_is_known_to_have_slots_of_its_own() -> None:
    nodes = parse_nodes(("http://gpu-box:8000;slots=4", "http://mac:8080"), 4)
    assert [(node.slots, node.slots_told) for node in nodes] == [(4, True), (4, False)]


def test_a_node_may_run_another_server_than_ollama() -> None:
    entries = (
        "http://gpu-box:8000;server=vllm;slots=64;gpu=h100",
        "http://gpu-box:8080/v1;server=llama.cpp",
        "mac=http://10.0.0.2:1234/v1/;server=lmstudio",
        "http://10.0.0.3:9000/behind/v1;server=openai-compatible",
    )
    assert parse_nodes(entries, 4) == (
        NodeSpec("gpu-box:8000", "http://gpu-box:8000/v1", 64, {"gpu": "h100"}, "vllm"),
        NodeSpec("gpu-box:8080", "http://gpu-box:8080/v1", 4, {}, "llama.cpp"),
        NodeSpec("mac", "http://10.0.0.2:1234/v1", 4, {}, "lmstudio"),
        NodeSpec("behind", "http://10.0.0.3:9000/behind/v1", 4, {}, "openai-compatible"),
    )


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ((), "at least one"),
        (("gpu-box:11434",), "not an address"),
        (("http://",), "not an address"),
        (("http://a;slots=0",), "above 0"),
        (("http://a;slots=many",), "above 0"),
        (("http://a;gpu",), "slots=<number>"),
        (("http://a:1/x", "http://b:2/x"), "named x"),
        (("http://a;server=tgi",), "must be one of llama.cpp, lmstudio, mlx, ollama, openai-compatible, searxng, vllm"),
        (("http://a;server=searxng;reach=world",), "reach of .* must be web, or inside if no query leaves"),
        (("https://ollama.com",), "address of a cloud"),
        (("https://API.OpenAI.com./v1;server=openai-compatible",), "address of a cloud"),
        (("mine=https://eu.api.mistral.ai/v1;server=vllm",), "address of a cloud"),
    ],
)
def test_a_list_that_makes_no_sense_is_refused(entries: tuple[str, ...], said: str) -> None:
    with pytest.raises(NodesInvalid, match=said):
        parse_nodes(entries, 4)


def test_a_wrong_list_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_OLLAMA_NODES", "http://a,ftp://b")
    with pytest.raises(SettingsInvalid, match="HEADRACE_OLLAMA_NODES: 'ftp://b' is not an address"):
        LocalWorkerSettings.load()


def node(name: str, expected_seconds: float = 2.0, **changes: Any) -> EndpointView:
    values: dict[str, Any] = {"provider": "ollama", "models": frozenset({"m:1b"}), "slots": 4, "busy": 0, "free": 4}
    return EndpointView(name=name, expected_seconds=expected_seconds, **{**values, **changes})


@pytest.mark.parametrize(
    ("nodes", "chosen"),
    [
        ([node("b"), node("a")], "a"),
        ([node("a", models=frozenset()), node("b")], "b"),
        ([node("a", 2.0), node("b", 1.9)], "b"),
        ([node("a", 1.0, free=0, busy=4), node("b", 25.0)], "a"),
        ([node("a", 26.0, free=0, busy=4), node("b", 25.0)], "b"),
        ([node("a", free=0), node("b")], "b"),
        ([node("a", busy=2), node("b", busy=1)], "b"),
        ([node("a", slots=8, busy=3), node("b", busy=2)], "a"),
        ([node("a", models=frozenset())], None),
        ([], None),
    ],
)
def test_the_node_that_may_answer_first_is_chosen(nodes: list[EndpointView], chosen: str | None) -> None:
    found = choose_node(nodes, "m:1b")
    assert (found.name if found is not None else None) == chosen


def test_a_name_without_a_tag_is_the_latest() -> None:
    latest = node("a", models=frozenset({"m:latest"}))
    assert choose_node([latest], "m") is latest
    assert choose_node([node("b")], "m") is None


def test_a_worker_that_joins_takes_from_the_others_only_what_it_gets() -> None:
    for settings in (LocalWorkerSettings(), CloudWorkerSettings()):
        consumer = consumer_properties(settings.kafka_config(), "g", None, from_start=True)
        assert consumer["partition.assignment.strategy"] == "cooperative-sticky"


def test_a_node_may_say_how_its_models_are_loaded_and_asked() -> None:
    entry = "big=http://big:11434;slots=4;num_ctx=8192;keep_alive=1h;slots.llama3:70b=1;gpu=a100"
    (found,) = parse_nodes([entry], 1)
    assert found.defaults == NodeDefaults(num_ctx=8_192, keep_alive="1h", parallel={"llama3:70b": 1})
    assert (found.slots, found.hardware) == (4, {"gpu": "a100"}), "a setting is no label"
    (other,) = parse_nodes([entry.replace("8192", "4096")], 1)
    changed = changes({"big": found}, {"big": other})
    assert (changed.left, changed.joined) == (("big",), (other,)), "its calls are made in another way"
    with pytest.raises(NodesInvalid, match=r"num_ctx=8k.*num_ctx must be a whole number from 256"):
        parse_nodes([entry.replace("8192", "8k")], 1)
