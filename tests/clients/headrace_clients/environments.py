"""Environments with the frameworks, pinned, in the cache folder: apart from all that Headrace depends on."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from headrace_devstack.settings import load_settings

from headrace_clients.catalog import HERE, NODE, NODE_ENVIRONMENT, PYTHON_LOCKS

OLDEST_NODE: Final = 20
_UV: Final = HERE.parents[1] / ".venv-tools" / "bin" / "uv"
_INSTALL_SECONDS: Final = 600


class CannotInstall(Exception):
    """An environment cannot be made here; the message says why and what would help."""


def prepare(environment: str) -> Path:
    """Make an environment if it is not there. Returns its folder. Raises CannotInstall."""
    return _node() if environment == NODE_ENVIRONMENT else python_environment(PYTHON_LOCKS / f"{environment}.txt")


def command(environment: str, folder: Path, script: Path) -> list[str]:
    """Starts a script in a prepared environment."""
    if environment != NODE_ENVIRONMENT:
        return [str(folder / "bin" / "python"), str(script)]
    # Node looks for packages beside the script.
    for file in NODE.glob("*.mjs"):
        shutil.copy(file, folder)
    return ["node", str(folder / script.name)]


def python_environment(lock: Path, below: str = "clients") -> Path:
    """An environment with what a lock pins, made below this folder of the cache if it is not there.

    Returns its folder, which has the lock's name and a digest of it. Raises CannotInstall.
    """
    folder = _folder(lock.stem, sys.version.encode() + lock.read_bytes(), below)
    stamp = folder / "complete"
    if not stamp.exists():
        uv = str(_UV) if _UV.exists() else shutil.which("uv")
        if uv is None:
            raise CannotInstall(f"there is no uv at {_UV}, nor on PATH: run `make setup`")
        _call(uv, "venv", "--quiet", "--clear", "--no-project", "--python", sys.executable, str(folder))
        python = str(folder / "bin" / "python")
        pinned = ("--require-hashes", "-r", str(lock))
        install = (uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", python, *pinned)
        # The certificates of this machine, for networks with a CA of their own; then what has been downloaded before.
        _first_that_works(install, (), ("--system-certs",), ("--offline",))
        stamp.touch()
    return folder


def _node() -> Path:
    if (npm := shutil.which("npm")) is None or (node := shutil.which("node")) is None:
        raise CannotInstall(f"node or npm is not on PATH: install Node.js {OLDEST_NODE} or newer")
    version = _call(node, "--version").strip()
    if int(version.removeprefix("v").partition(".")[0]) < OLDEST_NODE:
        raise CannotInstall(f"this is Node.js {version}: install {OLDEST_NODE} or newer")
    pins = [NODE / name for name in ("package.json", "package-lock.json", ".npmrc")]
    folder = _folder(NODE_ENVIRONMENT, version.encode() + b"".join(pin.read_bytes() for pin in pins))
    stamp = folder / "complete"
    if not stamp.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for pin in pins:
            shutil.copy(pin, folder)
        install = (
            npm,
            "ci",
            "--prefix",
            str(folder),
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--loglevel=error",
        )
        _first_that_works(install, (), ("--offline",))
        stamp.touch()
    return folder


def _folder(environment: str, pins: bytes, below: str = "clients") -> Path:
    return load_settings().cache / below / f"{environment}-{hashlib.sha256(pins).hexdigest()[:12]}"


def _first_that_works(install: tuple[str, ...], *attempts: tuple[str, ...]) -> None:
    problems = []
    for more in attempts:
        try:
            _call(*install, *more)
        except CannotInstall as problem:
            problems.append(problem)
        else:
            return
    raise CannotInstall(f"{problems[0]}; connect to the network, and run it again")


def _call(*arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    try:
        done = subprocess.run(
            arguments,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_INSTALL_SECONDS,
            check=False,
            env=environment | {"UV_PYTHON_DOWNLOADS": "never"},
        )
    except subprocess.TimeoutExpired:
        raise CannotInstall(f"{Path(arguments[0]).name} took more than {_INSTALL_SECONDS} s") from None
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split())[-300:]
        raise CannotInstall(f"{Path(arguments[0]).name} ended with {done.returncode}: {said}")
    return done.stdout
