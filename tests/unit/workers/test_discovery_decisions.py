"""EndpointSlices to nodes: who is one, under which name and address, with how many slots; what a change asks for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from headrace_local_worker.decide.endpoints import (
    Changed,
    LabelsInvalid,
    Listed,
    NodeRules,
    Port,
    Removed,
    Slice,
    SliceEndpoint,
    after,
    machines_of,
    nodes_of,
    parse_labels,
    pods_of,
)
from headrace_local_worker.decide.membership import Changes, changes, share, shared
from headrace_local_worker.decide.nodes import NodeSpec
from headrace_local_worker.settings import LocalWorkerSettings
from headrace_runtime.settings import SettingsInvalid

RULES = NodeRules(port="http", slots=4)
HTTP = {"http": Port(11434)}


def of(*endpoints: SliceEndpoint, name: str = "ollama-abc", **changes: object) -> Slice:
    return replace(Slice(name, "IPv4", HTTP, endpoints), **changes)  # type: ignore[arg-type]


def urls(*slices: Slice, rules: NodeRules = RULES) -> dict[str, str]:
    return {name: spec.url for name, spec in nodes_of(slices, {}, rules).nodes.items()}


def test_a_node_is_called_by_its_pod_its_hostname_or_its_address() -> None:
    found = urls(
        of(
            SliceEndpoint("10.0.0.1", pod="ollama-0", hostname="h"),
            SliceEndpoint("10.0.0.2", hostname="gpu-box"),
            SliceEndpoint("10.0.0.3"),
        )
    )
    assert found == {
        "ollama-0": "http://10.0.0.1:11434",
        "gpu-box": "http://10.0.0.2:11434",
        "10.0.0.3": "http://10.0.0.3:11434",
    }
    assert urls(of(SliceEndpoint("10.0.0.3"), ports={"http": Port(80)})) == {"10.0.0.3:80": "http://10.0.0.3:80"}


def test_only_what_may_get_work_is_a_node() -> None:
    there = SliceEndpoint("10.0.0.1", pod="a")
    assert urls(of(replace(there, ready=False))) == {}
    assert urls(of(replace(there, terminating=True))) == {}, "it may still serve, but what it has and nothing new"
    assert urls(of(there)) == {"a": "http://10.0.0.1:11434"}


def test_a_node_in_slices_of_both_families_is_one_node() -> None:
    four = of(SliceEndpoint("10.0.0.1", pod="a"), name="four")
    six = of(SliceEndpoint("fd00::1", pod="a"), name="six", family="IPv6")
    assert urls(four, six) == urls(six, four) == {"a": "http://10.0.0.1:11434"}
    assert urls(six) == {"a": "http://[fd00::1]:11434"}
    unready = of(SliceEndpoint("10.0.0.1", pod="a", ready=False), name="four")
    assert urls(unready, six) == {"a": "http://[fd00::1]:11434"}


def test_a_name_from_outside_is_used_as_it_is() -> None:
    assert urls(of(SliceEndpoint("gpu.example"), family="FQDN")) == {"gpu.example": "http://gpu.example:11434"}


def test_a_node_that_moves_between_slices_stays_one_and_a_pod_that_was_replaced_is_the_new_one() -> None:
    node = SliceEndpoint("10.0.0.1", pod="a")
    assert len(urls(of(node, name="one"), of(node, name="two"))) == 1
    old = SliceEndpoint("10.0.0.1", pod="a", terminating=True, ready=False)
    assert urls(of(old, name="one"), of(SliceEndpoint("10.0.0.9", pod="a"), name="two")) == {
        "a": "http://10.0.0.9:11434"
    }


def test_the_port_goes_by_its_name_and_a_single_one_needs_none() -> None:
    node = SliceEndpoint("10.0.0.1", pod="a")
    many = {"metrics": Port(9000), "http": Port(8080)}
    assert urls(of(node, ports=many)) == {"a": "http://10.0.0.1:8080"}
    assert urls(of(node, ports={"": Port(8080)})) == {"a": "http://10.0.0.1:8080"}
    assert urls(of(node, ports={"http": Port(443, secure=True)})) == {"a": "https://10.0.0.1:443"}
    found = nodes_of([of(node, ports={"web": Port(1), "metrics": Port(2)})], {}, RULES)
    assert found.nodes == {}
    (objection,) = found.objections
    assert "ollama-abc" in objection
    assert "'metrics', 'web'" in objection
    assert "HEADRACE_DISCOVERY_PORT" in objection
    assert nodes_of([of(ports={})], {}, RULES).objections == (), "a slice without endpoints does no harm"


def test_a_label_of_the_service_says_what_its_pods_run() -> None:
    vllm = SliceEndpoint("10.0.0.7", pod="vllm-0")
    found = nodes_of(
        [
            of(SliceEndpoint("10.0.0.1", pod="ollama-0")),
            of(vllm, name="vllm-abc", ports={"": Port(8000)}, server="vllm"),
        ],
        {}, RULES,
    )  # fmt: skip
    assert found.objections == ()
    assert found.nodes == {
        "ollama-0": NodeSpec("ollama-0", "http://10.0.0.1:11434", 4),
        "vllm-0": NodeSpec("vllm-0", "http://10.0.0.7:8000/v1", 4, server="vllm"),
    }
    found = nodes_of([of(vllm, name="vllm-abc", server="vLLM")], {}, RULES)
    assert found.nodes == {}, "rather than asked as if it were an Ollama"
    (objection,) = found.objections
    assert "vllm-abc" in objection
    assert "headrace.dev/server='vLLM'" in objection
    assert nodes_of([of(server="vLLM")], {}, RULES).objections == ()


def test_the_label_is_read_from_the_slice() -> None:
    from headrace_local_worker.adapters import cluster
    from kubernetes.aio import client

    def read(labels: dict[str, str] | None) -> str:
        return cluster._slice(
            client.V1EndpointSlice(
                address_type="IPv4", endpoints=[], metadata=client.V1ObjectMeta(name="x", labels=labels)
            )
        ).server

    assert [read(None), read({}), read({"headrace.dev/server": "vllm"})] == ["ollama", "ollama", "vllm"]


def test_labels_of_machines_become_hardware_and_slots() -> None:
    rules = NodeRules("http", 4, parse_labels(("gpu=nvidia.com/gpu.product", "slots=headrace/slots")))
    slice_ = of(
        SliceEndpoint("10.0.0.1", pod="a", machine="m1", zone="z1"),
        SliceEndpoint("10.0.0.2", pod="b", machine="m2"),
        SliceEndpoint("10.0.0.3", pod="c", machine="m3"),
    )
    machines = {
        "m1": {"nvidia.com/gpu.product": "L40S", "headrace/slots": "8", "other": "x"},
        "m2": {"headrace/slots": "many"},
    }
    found = nodes_of([slice_], machines, rules)
    assert {name: (spec.slots, spec.hardware) for name, spec in found.nodes.items()} == {
        "a": (8, {"gpu": "L40S", "zone": "z1"}),
        "b": (4, {}),
        "c": (4, {}),
    }
    (objection,) = found.objections
    assert "m2" in objection
    assert "headrace/slots" in objection
    assert machines_of([slice_]) == {"m1", "m2", "m3"}


def test_the_list_of_labels_must_be_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    for entries in (("gpu",), ("=label",), ("gpu=a", "gpu=b")):
        with pytest.raises(LabelsInvalid):
            parse_labels(entries)
    monkeypatch.setenv("HEADRACE_DISCOVERY_LABELS", "gpu")
    with pytest.raises(SettingsInvalid, match="HEADRACE_DISCOVERY_LABELS"):
        LocalWorkerSettings.load()
    monkeypatch.setenv("HEADRACE_DISCOVERY_LABELS", "gpu=nvidia.com/gpu.product, slots=headrace/slots")
    monkeypatch.setenv("HEADRACE_NODE_SLOTS", "2")
    assert LocalWorkerSettings.load().rules() == NodeRules(
        "http", 2, {"gpu": "nvidia.com/gpu.product", "slots": "headrace/slots"}
    )


def test_a_list_replaces_everything_and_changes_touch_one_slice() -> None:
    one, two = of(name="one"), of(name="two")
    slices = after({"old": of(name="old")}, Listed((one, two)))
    assert slices == {"one": one, "two": two}
    changed = of(SliceEndpoint("10.0.0.1"), name="one")
    assert after(slices, Changed(changed)) == {"one": changed, "two": two}
    assert after(slices, Removed("two")) == {"one": one}
    assert after(slices, Removed("unknown")) == slices


def test_changes_say_who_left_who_joined_and_who_is_another_size() -> None:
    a, b, c = (NodeSpec(name, f"http://{name}", 4) for name in "abc")
    assert not changes({"a": a}, {"a": a})
    moved, larger = replace(b, url="http://elsewhere"), replace(c, slots=8)
    assert changes({"a": a, "b": b, "c": c}, {"b": moved, "c": larger}) == Changes(
        left=("a", "b"), joined=(moved,), resized=(larger,)
    )


def test_workers_share_the_slots_of_each_node() -> None:
    assert share(4, "node", "w1", ()) == 4
    assert share(4, "node", "w1", ("w1",)) == 4
    assert [share(4, "node", worker, ("w1", "w2")) for worker in ("w1", "w2")] == [2, 2]
    assert share(1, "node", "w1", ("w1", "w2")) == 1, "any worker may be handed what only this node can run"
    assert share(4, "node", "new", ("w1",)) == 2, "who is not yet listed counts itself"
    nodes = {"a": NodeSpec("a", "http://a", 4)}
    assert shared(nodes, "w1", ("w1", "w2"))["a"].slots == 2


def test_workers_that_stop_are_not_counted() -> None:
    workers = of(
        SliceEndpoint("10.0.0.1", pod="w1"),
        SliceEndpoint("10.0.0.2", pod="w2", terminating=True),
        SliceEndpoint("10.0.0.3"),
    )
    assert pods_of([workers]) == {"w1"}
