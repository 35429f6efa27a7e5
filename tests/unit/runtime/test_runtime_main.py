"""A service as a process: its options, its exit codes, its life on signals."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import pytest
from headrace_testing.loops import SHIPPED_LOOP

SERVICE = """
import asyncio
from headrace_runtime.http import new_app
from headrace_runtime.http_server import HttpServer
from headrace_runtime.lifecycle import Part, Service
from headrace_runtime.main import main
from headrace_runtime.metrics import Metrics
from headrace_runtime.settings import ServiceSettings, SettingsInvalid, setting

class ExampleSettings(ServiceSettings):
    service_name = "example"
    file: str = setting("", unit="path", reason="What to read.")
    fail_after: float | None = setting(None, unit="s", reason="When to fail.")

def build(settings):
    if settings.file == "wrong":
        raise SettingsInvalid(("HEADRACE_FILE: is wrong",))
    if settings.file:
        open(settings.file)
    async def go():
        if settings.fail_after is None:
            await asyncio.Event().wait()
        await asyncio.sleep(settings.fail_after)
        raise RuntimeError("failed as asked")
    return Service([Part("loop", run=go)], Metrics("example"))

raise SystemExit(main(ExampleSettings, build))
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "example_service.py"
    path.write_text(SERVICE)
    return path


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    return {**kept, **extra}


def _run(script: Path, *options: str, **extra: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(script), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, env=_environment(extra), check=False)


def test_help_and_version_and_validation(script: Path) -> None:
    shown = _run(script, "--help")
    assert shown.returncode == 0
    assert "HEADRACE_FAIL_AFTER" in shown.stdout
    assert _run(script, "--version").stdout.startswith("headrace-example ")
    valid = _run(script, "--validate", HEADRACE_FAIL_AFTERR="1")
    assert valid.returncode == 0
    assert "did you mean HEADRACE_FAIL_AFTER?" in valid.stderr
    wrong = _run(script, "--validate", HEADRACE_OPS_PORT="many")
    assert wrong.returncode == 2
    assert "HEADRACE_OPS_PORT" in wrong.stderr
    assert _run(script, "--no-such-option").returncode == 2


def test_a_failing_part_makes_exit_code_one(script: Path) -> None:
    ended = _run(script, HEADRACE_FAIL_AFTER="0.01", HEADRACE_OPS_PORT="0")
    assert ended.returncode == 1
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    messages = [line["message"] for line in lines]
    assert lines[0]["message"] == "starting"
    assert lines[0]["event_loop"] == SHIPPED_LOOP
    assert "part failed, stopping the service" in messages
    assert messages[-1] == "stopped"


def test_a_service_that_cannot_be_built_says_why(script: Path) -> None:
    wrong = _run(script, HEADRACE_FILE="wrong")
    assert wrong.returncode == 2
    assert "HEADRACE_FILE: is wrong" in wrong.stdout
    absent = _run(script, HEADRACE_FILE="/nowhere/at/all")
    assert absent.returncode == 1
    assert "No such file" in absent.stdout


def test_a_service_is_ready_until_it_is_told_to_stop(script: Path, unused_tcp_port: int) -> None:
    environment = _environment({"HEADRACE_OPS_PORT": str(unused_tcp_port)})
    process = subprocess.Popen([sys.executable, str(script)], env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert _ready(f"http://127.0.0.1:{unused_tcp_port}/readyz")
        process.send_signal(signal.SIGTERM)
        written, _ = process.communicate(timeout=10)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert [json.loads(line)["message"] for line in written.splitlines()][-1] == "stopped"


def _ready(url: str) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=1) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.05)
    return False


async def test_tests_run_on_the_event_loop_that_services_run_on() -> None:
    assert type(asyncio.get_running_loop()).__module__ == SHIPPED_LOOP
