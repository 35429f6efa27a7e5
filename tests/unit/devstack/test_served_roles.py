"""What a new user is told about roles that nothing here serves."""

from __future__ import annotations

import socket

import pytest
from headrace_devstack.providers import offered_in_the_cloud
from headrace_devstack.served_roles import UnservedRoles, told, unserved_roles, what_is_missing
from headrace_models.simulator.catalog import DEFAULT_NODES
from headrace_models.simulator.server import Simulator, SimulatorConfig
from headrace_router.adapters.policy_file import parse_policy

POLICY = parse_policy(
    """
    defaults: {role: scribe}
    deadlines: {default: {interactive: 120000, batch: 3600000}}
    attempts: {timeout: {interactive: 45000, batch: 1500000}}
    providers: {ollama: {place: local}, groq: {place: cloud}, anthropic: {place: cloud}}
    ladder: [groq/llama-3.3-70b-versatile]
    roles:
      scribe: {models: [ollama/gemma2:2b]}
      reviewer: {models: [ollama/phi3:3.8b, ollama/gemma2], ladder: [anthropic/claude-haiku-4-5]}
      auditor: {models: [ollama/phi3:3.8b], always_local: true}
      thinker: {models: [anthropic/claude-haiku-4-5], ladder: []}
    """,
    "here",
)


def test_all_roles_are_served_where_everything_is_there() -> None:
    found = unserved_roles(POLICY, [("ollama", "gemma2:2b"), ("ollama", "phi3:3.8b")], ["anthropic"])

    assert found == UnservedRoles()
    assert told(found, nodes_answer=True) == []


def test_a_name_without_a_tag_is_the_latest() -> None:
    assert "reviewer" not in unserved_roles(POLICY, [("ollama", "gemma2:latest")], []).nowhere


def test_roles_are_told_by_what_serves_them() -> None:
    found = unserved_roles(POLICY, [], ["groq"])

    assert found == UnservedRoles(
        nowhere=("reviewer", "auditor", "thinker"), cloud_only=("scribe",), pull=("gemma2:2b", "phi3:3.8b")
    )
    assert told(found, nodes_answer=True) == [
        "nothing here serves reviewer, auditor, thinker: their tasks wait until their deadlines",
        "only the cloud serves scribe: sensitive content waits",
        "on a node: ollama pull gemma2:2b && ollama pull phi3:3.8b",
    ]
    assert told(found, nodes_answer=False)[-1] == "start a node that has gemma2:2b, phi3:3.8b"


async def test_nodes_that_are_down_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADRACE_POLICY_FILE", raising=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = f"http://user:secret@127.0.0.1:{taken.getsockname()[1]}"
        found = await what_is_missing(nobody, [])
    assert (
        found[0]
        == f"{nobody.replace('user:secret@', '')} does not answer: start it, or take it out of HEADRACE_OLLAMA_NODES"
    )
    assert found[1].startswith("nothing here serves general, ")
    assert found[-1].startswith("start a node that has gemma2:2b")


async def test_the_simulated_nodes_serve_every_role(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADRACE_POLICY_FILE", raising=False)
    async with Simulator(SimulatorConfig()) as simulator:
        nodes = ",".join(simulator.ollama_url(name) for name in DEFAULT_NODES)
        assert await what_is_missing(nodes, ["groq", "anthropic"]) == []


def test_a_provider_is_offered_if_it_has_a_key() -> None:
    assert offered_in_the_cloud({"GROQ_API_KEY": "simulated", "ANTHROPIC_API_KEY": ""}) == ("groq",)
