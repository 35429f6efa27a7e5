"""Whatever is done to Services, cuts and lists included, a worker ends with the nodes that the cluster has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from headrace_local_worker.decide.endpoints import (
    Changed,
    Listed,
    NodeRules,
    Port,
    Removed,
    Slice,
    SliceEndpoint,
    SliceEvent,
    after,
    nodes_of,
)
from headrace_local_worker.decide.membership import changes, share
from headrace_local_worker.decide.nodes import NodeSpec
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

RULES = NodeRules(port="http", slots=4)
FAMILIES = {"v4-a": "IPv4", "v4-b": "IPv4", "v6-a": "IPv6"}

endpoints = st.builds(
    SliceEndpoint,
    address=st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.3"]),
    ready=st.booleans(),
    terminating=st.booleans(),
    pod=st.sampled_from(["", "ollama-0", "ollama-1"]),
)
backends = st.lists(endpoints, max_size=4).map(tuple)


def make(name: str, found: tuple[SliceEndpoint, ...]) -> Slice:
    family = FAMILIES[name]
    if family == "IPv6":
        found = tuple(replace(one, address=one.address.replace("10.0.0.", "fd00::")) for one in found)
    return Slice(name, family, {"http": Port(11434)}, found)  # type: ignore[arg-type]


class Cluster(RuleBasedStateMachine):
    """A cluster whose events reach a worker late, and are lost when its watch is cut and the version is gone."""

    def __init__(self) -> None:
        super().__init__()
        self.truth: dict[str, Slice] = {}
        self.on_the_way: list[SliceEvent] = []
        self.known: Mapping[str, Slice] = {}
        self.pool: dict[str, NodeSpec] = {}
        self.nodes: Mapping[str, NodeSpec] = {}

    @rule(name=st.sampled_from(sorted(FAMILIES)), found=backends)
    def write(self, name: str, found: tuple[SliceEndpoint, ...]) -> None:
        self.truth[name] = make(name, found)
        self.on_the_way.append(Changed(self.truth[name]))

    @rule(name=st.sampled_from(sorted(FAMILIES)))
    def delete(self, name: str) -> None:
        if self.truth.pop(name, None) is not None:
            self.on_the_way.append(Removed(name))

    @rule()
    def hear(self) -> None:
        if self.on_the_way:
            self._take(self.on_the_way.pop(0))

    @rule()
    def lose_the_watch_and_list_anew(self) -> None:
        self.on_the_way.clear()
        self._take(Listed(tuple(self.truth.values())))

    @rule()
    def hear_again_after_a_cut(self) -> None:
        """A list may already hold what the watch then tells."""
        if self.on_the_way:
            self._take(self.on_the_way[0])

    def _take(self, event: SliceEvent) -> None:
        self.known = after(self.known, event)
        now = nodes_of(self.known.values(), {}, RULES).nodes
        steps = changes(self.nodes, now)
        self.nodes = now
        for name in steps.left:
            del self.pool[name]
        for spec in steps.joined:
            assert spec.name not in self.pool, "a pool refuses a name that is taken"
            self.pool[spec.name] = spec
        for spec in steps.resized:
            assert self.pool[spec.name].url == spec.url
            self.pool[spec.name] = spec

    @invariant()
    def the_pool_is_what_was_decided(self) -> None:
        assert self.pool == self.nodes

    @invariant()
    def when_all_is_heard_the_pool_is_what_the_cluster_has(self) -> None:
        if self.on_the_way:
            return
        usable = [
            (one.pod or one.address, one.address, slice_.family)
            for slice_ in self.truth.values()
            for one in slice_.endpoints
            if one.ready and not one.terminating
        ]
        assert set(self.pool) == {name for name, _, _ in usable}
        for name, spec in self.pool.items():
            allowed = {(address, family) for known, address, family in usable if known == name}
            hosts = {f"http://[{a}]:11434" if family == "IPv6" else f"http://{a}:11434" for a, family in allowed}
            assert spec.url in hosts


TestClusterModel = Cluster.TestCase


@given(
    slots=st.integers(1, 32),
    node=st.text(min_size=1, max_size=8),
    workers=st.sets(st.text(min_size=1, max_size=4), min_size=1, max_size=12),
)
def test_shares_add_up_to_the_slots_and_nobody_is_left_out(slots: int, node: str, workers: set[str]) -> None:
    shares = [share(slots, node, worker, workers) for worker in workers]
    assert min(shares) >= 1
    assert max(shares) - min(shares) <= 1
    assert sum(shares) == max(slots, len(workers))
