"""The examples of a node's agent start the command with options that it has, and set variables that somebody reads."""

from __future__ import annotations

import plistlib
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from headrace.addresses import VARIABLES
from headrace.cli.main import build
from typer.main import get_command

FOLDER = Path(__file__).parents[3] / "docs" / "examples" / "node-agent"


def arguments() -> dict[str, Sequence[str]]:
    unit = re.search(r"^ExecStart=(.*)$", (FOLDER / "headrace-node.service").read_text(), re.M)
    assert unit is not None
    agent = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]["agent"]
    return {
        "systemd": shlex.split(unit[1])[1:],
        "launchd": plistlib.loads((FOLDER / "org.headrace.node.plist").read_bytes())["ProgramArguments"][1:],
        "compose": ["node", *agent["command"]],
    }


@pytest.mark.parametrize("name", ["systemd", "launchd", "compose"])
def test_the_command_has_these_options(name: str) -> None:
    command, *given = arguments()[name]
    assert command == "node"
    node = get_command(build([])).commands["node"]  # type: ignore[attr-defined]
    parsed = node.make_context("node", list(given), resilient_parsing=True)
    assert parsed.params["proxy_port"] == 11435
    assert parsed.params["slots"] == 2
    assert parsed.args == []


def test_the_variables_are_read_by_the_agent() -> None:
    names = set(re.findall(r"^(HEADRACE_\w+)=", (FOLDER / "node.env").read_text(), re.M))
    names |= set(plistlib.loads((FOLDER / "org.headrace.node.plist").read_bytes())["EnvironmentVariables"])
    own = {name for name in names if not name.startswith("HEADRACE_KAFKA_")}
    assert own == {
        "HEADRACE_NODE_KEY",
        "HEADRACE_NODE_TOKEN",
        VARIABLES["bootstrap_servers"],
        VARIABLES["registry_url"],
    }
