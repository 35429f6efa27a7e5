"""What `headrace up` says when it cannot start, and that it then leaves nothing behind."""

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from headrace_devstack.ports import LOOPBACK, PortPlan, choose_base
from headrace_testing.up import RunningStack, launch_up, open_folder

NOWHERE = "http://127.0.0.1:9/maven2"


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder("errors") as path:
        yield path


def said(folder: Path, process: subprocess.Popen[bytes]) -> str:
    """Its output with line breaks of the terminal taken out, after it ended with 1."""
    assert process.wait(60) == 1
    return " ".join((folder / "up.log").read_text().split())


def test_a_taken_port(folder: Path) -> None:
    base = choose_base()
    with socket.create_server((LOOPBACK, PortPlan(base).broker(1))) as server:
        text = said(folder, launch_up(folder, "--backing-only", "--port-base", str(base)))
        assert f"port {server.getsockname()[1]}, needed by kafka, is in use by" in text
    assert f"(pid {os.getpid()})" in text
    assert "What to do: end that process, or choose another block of ports" in text
    assert not (folder / "data/stack.json").exists()


def test_another_stack_on_the_same_folder(stack: RunningStack) -> None:
    text = said(stack.data.parent, launch_up(stack.data.parent, "--backing-only"))
    assert f"Another `headrace up` (pid {stack.process.pid}) runs on the data folder {stack.data}" in text
    assert "What to do:" in text
    assert stack.process.poll() is None


def test_data_of_a_newer_version(folder: Path) -> None:
    (folder / "data").mkdir()
    (folder / "data/VERSION").write_text("999\n")
    text = said(folder, launch_up(folder, "--backing-only", "--port-base", "0"))
    assert "has layout version 999" in text
    assert "start it with the newer Headrace that wrote it" in text


def test_no_network_on_the_first_start(folder: Path) -> None:
    process = launch_up(
        folder, "--backing-only", "--port-base", "0",
        HEADRACE_CACHE=str(folder / "empty cache"), HEADRACE_MAVEN_REPOSITORY=NOWHERE,
    )  # fmt: skip
    text = said(folder, process)
    assert "is not in the cache and could not be downloaded" in text
    assert "What to do: connect to the network and start again" in text


def test_a_wrong_setting(folder: Path) -> None:
    text = said(folder, launch_up(folder, HEADRACE_PORT_BASE="70000"))
    assert "HEADRACE_PORT_BASE" in text
    assert "What to do:" in text
