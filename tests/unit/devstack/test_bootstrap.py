"""The script behind make: what it says when it cannot set up, and that it does nothing when nothing changed."""

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "libs/devstack/bootstrap.py"
OLD_PYTHON = f"""
import runpy, sys
sys.version_info, sys.version = (3, 8, 20), "3.8.20 (default)"
runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "libs/devstack").mkdir(parents=True)
    shutil.copy(SCRIPT, tmp_path / "libs/devstack")
    for name in ("pyproject.toml", "uv.lock"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


@pytest.fixture
def uv(checkout: Path) -> Path:
    """What uv was called with; it refuses what the file `refused` beside it begins with."""
    tools = checkout / ".venv-tools"
    (tools / "bin").mkdir(parents=True)
    (tools / "uv-version").write_text(str(runpy.run_path(str(SCRIPT))["UV_VERSION"]))
    program = tools / "bin" / "uv"
    program.write_text(
        f'#!/bin/sh\necho "$*" >> {tools}/calls\n'
        f'while read -r refused; do case "$*" in "$refused"*) exit 1;; esac; done < {tools}/refused\n'
        f"mkdir -p {checkout}/.venv/bin\n"
    )
    program.chmod(0o755)
    (tools / "refused").touch()
    return tools / "calls"


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **variables}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_an_old_python_gets_a_clear_answer() -> None:
    result = run("-c", OLD_PYTHON)
    assert result.returncode == 1
    assert "This is Python 3.8.20" in result.stderr
    assert "make PYTHON=python3.12" in result.stderr


def test_without_network_it_says_so(checkout: Path) -> None:
    result = run(
        str(checkout / "libs/devstack/bootstrap.py"),
        PIP_CONFIG_FILE=os.devnull, PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_NO_INDEX="", PIP_FIND_LINKS="",
        PIP_RETRIES="0", PIP_NO_CACHE_DIR="1",
    )  # fmt: skip
    assert result.returncode == 1
    assert "uv could not be installed" in result.stderr
    assert "What to do: connect to the network and run make again" in result.stderr


def test_nothing_is_done_when_nothing_changed(checkout: Path) -> None:
    script = str(checkout / "libs/devstack/bootstrap.py")
    state = run("-c", f"import runpy; print(runpy.run_path({script!r})['wanted_state']())").stdout.strip()
    (checkout / ".venv/bin").mkdir(parents=True)
    (checkout / ".venv/bin/python").touch()
    (checkout / ".venv/headrace-synced").write_text(state)
    result = run(script, PATH="")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert not (checkout / ".venv-tools").exists()


def test_packages_that_the_lock_does_not_know_are_locked_only_when_asked_to(checkout: Path, uv: Path) -> None:
    script = str(checkout / "libs/devstack/bootstrap.py")
    uv.with_name("refused").write_text("lock --check\nsync\n")
    result = run(script)
    assert result.returncode == 1
    assert "What to do: run make generate." in result.stderr
    assert "lock --quiet" not in uv.read_text()
    uv.with_name("refused").write_text("lock --check\n")
    result = run(script, "--lock")
    assert (result.returncode, result.stderr) == (0, "")
    assert [call.split(" --python")[0] for call in uv.read_text().splitlines()[-3:]] == [
        "lock --check --offline", "lock --quiet", "sync --frozen",
    ]  # fmt: skip


def test_what_is_locked_already_is_not_locked_again(checkout: Path, uv: Path) -> None:
    assert run(str(checkout / "libs/devstack/bootstrap.py"), "--lock").returncode == 0
    assert "lock --quiet" not in uv.read_text()
