"""Models of the running platform's nodes: seen, planned, pulled, loaded and removed over the topics alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import EntryPoint
from typing import Any

import pytest
from headrace.addresses import VARIABLES
from headrace.cli.main import PLUGINS, build
from headrace_testing.up import RunningStack
from typer.testing import CliRunner, Result

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]

Models = Callable[..., Result]


@pytest.fixture
def models(platform: RunningStack) -> Models:
    app = build([EntryPoint("models", "headrace_devstack.models.cli:app", PLUGINS)])

    def run(*arguments: str) -> Result:
        given = ["--stack", str(platform.data / "stack.json"), "models", *arguments]
        return CliRunner().invoke(app, given, env=dict.fromkeys(VARIABLES.values(), ""))

    return run


def on(models: Models, node: str) -> dict[str, Any]:
    listed = {one["name"]: one for one in json.loads(models("list", "--json").stdout)}
    found = listed[node]
    assert isinstance(found, dict)
    return found


def test_a_model_comes_to_a_node_and_leaves_it_again(models: Models) -> None:
    assert "mistral:7b" not in on(models, "workstation")["on_disk"]
    assert models("pull", "mistral:7b", "--node", "workstation").exit_code == 0
    assert models("load", "mistral:7b").exit_code == 0
    try:
        held = on(models, "workstation")
        assert held["on_disk"]["mistral:7b"] > 4_000_000_000
        assert "mistral:7b" in held["loaded"]
        assert "nothing to do" in models("load", "mistral:7b").stderr
    finally:
        assert models("remove", "mistral:7b", "--node", "workstation").exit_code == 0
    assert "mistral:7b" not in on(models, "workstation")["on_disk"]


def test_what_cannot_be_done_is_said(models: Models) -> None:
    refused = models("pull", "no-such-model:1b", "-n", "workstation", "-n", "remote-1")
    assert refused.exit_code == 1
    assert refused.stderr.count("pull model manifest: file does not exist") >= 2
    unknown = models("pull", "gemma2:2b", "--node", "nobody")
    assert unknown.exit_code == 1
    assert "no Ollama node that works is called nobody; there are remote-1, workstation" in " ".join(
        unknown.stderr.split()
    )


def test_a_plan_says_what_it_would_do_and_does_nothing(models: Models) -> None:
    before = json.loads(models("list", "--json").stdout)
    planned = models("plan")
    # Nobody says how much memory the simulated nodes have, so what they run is all they get.
    assert "memory of workstation is unknown" in planned.stderr
    assert json.loads(models("plan", "--json").stdout)["steps"]
    assert json.loads(models("list", "--json").stdout) == before
