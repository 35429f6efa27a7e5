"""Nodes of the running platform: drained and given back; an agent that announces one from its own process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from headrace.addresses import VARIABLES
from headrace.cli.main import build
from headrace_contracts.node_keys import NodeKey
from headrace_testing.up import RunningStack, clean_environment
from typer.testing import CliRunner

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

MODEL = "gemma2:2b"
"""Both simulated nodes have it."""
Headrace = Callable[..., Any]


@pytest.fixture
def headrace(platform: RunningStack) -> Headrace:
    """Runs a command on the platform; what it prints, as JSON where that was asked for."""
    app = build([])

    def run(*arguments: str) -> Any:
        given = ["--stack", str(platform.data / "stack.json"), *arguments]
        result = CliRunner().invoke(app, given, env=dict.fromkeys(VARIABLES.values(), ""))
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout) if "--json" in arguments else result.stdout

    return run


@pytest.fixture
def undrained(headrace: Headrace) -> Iterator[None]:
    yield
    for view in headrace("nodes", "list", "--json"):
        if view["drained"] is not None:
            headrace("nodes", "undrain", view["node"])


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds
        time.sleep(0.1)


def view_of(headrace: Headrace, node: str) -> dict[str, Any]:
    found = {view["node"]: view for view in headrace("nodes", "list", "--json")}
    view = found.get(node)
    return view if view is not None else {"healthy": False, "workers": [], "announced": None}


def served_by(headrace: Headrace, task: str) -> str:
    answered = headrace("submit", "--json", "--model", f"ollama/{MODEL}", "--privacy", "sensitive", task)
    assert answered["status"] == "succeeded"
    return str(answered["node"])


def test_a_drained_node_gets_no_call_and_an_undrained_one_does_again(headrace: Headrace, undrained: None) -> None:
    assert view_of(headrace, "remote-1")["healthy"]
    headrace("nodes", "drain", "remote-1", "--reason", "more memory")
    until(lambda: "drained: more memory" in view_of(headrace, "remote-1").get("reason", ""))
    assert {served_by(headrace, f"Say a word, number {number}") for number in range(4)} == {"workstation"}
    headrace("nodes", "drain", "workstation")
    headrace("nodes", "undrain", "remote-1")
    until(lambda: view_of(headrace, "remote-1")["healthy"] and not view_of(headrace, "workstation")["healthy"])
    assert {served_by(headrace, f"Say one more, number {number}") for number in range(2)} == {"remote-1"}
    headrace("nodes", "undrain", "workstation")
    until(lambda: bool(view_of(headrace, "workstation")["healthy"]))
    assert "workstation" in headrace("nodes", "list")
    with pytest.raises(AssertionError, match="not a node"):
        headrace("nodes", "drain", "groq")
    assert "gemma2:2b" in headrace("nodes", "show", "workstation")


def test_an_agent_announces_its_node_until_it_is_stopped(headrace: Headrace, platform: RunningStack) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    simulated = f"{platform.simulator_url}/ollama/workstation"
    agent = subprocess.Popen(
        [
            str(Path(sys.executable).with_name("headrace")), "--stack", str(platform.data / "stack.json"), "node",
            "--ollama", simulated, "--url", f"http://127.0.0.1:{port}", "--proxy-port", str(port), "--slots", "2",
            "--label", "gpu=none", "--interval", "1", "--drain-seconds", "1",
        ],
        env={**clean_environment(), "HEADRACE_NODE_KEY": str(NodeKey.of("any secret", "desk"))},
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        until(lambda: view_of(headrace, "desk")["announced"] is not None)
        view = view_of(headrace, "desk")
        assert (view["slots"], view["hardware"], view["workers"]) == (2, {"gpu": "none"}, [])
        assert MODEL in view["models"]
        assert view["announced"]["cpus"] == os.cpu_count()
        measured = headrace("nodes", "benchmark", "desk", "--model", MODEL, "--json")
        assert [level["parallel"] for level in measured["levels"]] == [1, 2, 4]
        until(lambda: view_of(headrace, "desk")["announced"]["tokens_per_second"] is not None)
    finally:
        agent.send_signal(signal.SIGTERM)
        _, said = agent.communicate(timeout=20)
    assert agent.returncode == 0, said
    assert "node desk is announced" in said
    assert view_of(headrace, "desk")["announced"] is None, "it was taken back at once"
