"""Creates the environment that everything else runs in: uv in .venv-tools, all packages in .venv.

The Makefile calls it before each target; it needs only the standard library. If nothing has changed since the last
time, it returns at once without using the network. Its syntax is that of Python 3.6, so that an old Python gets a
clear message.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

UV_VERSION = "0.13.8"
OLDEST_PYTHON = (3, 11)
ROOM = 2000000000  # bytes
ROOT = Path(__file__).resolve().parent.parent.parent
TOOLS = ROOT / ".venv-tools"
ENVIRONMENT = ROOT / ".venv"
STAMP = ENVIRONMENT / "headrace-synced"


def fail(problem: str, remedy: str) -> None:
    """Print what is wrong and what to do, and exit."""
    sys.stderr.write(f"\nx {problem}\n  What to do: {remedy}\n\n")
    sys.exit(1)


def say(line: str) -> None:
    """Announce a step that takes a while."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def wanted_state() -> str:
    """A digest of everything that the environment depends on."""
    digest = hashlib.sha256()
    digest.update(f"{UV_VERSION} {sys.version} {ENVIRONMENT}\n".encode())
    projects = sorted(ROOT.glob("libs/*/pyproject.toml")) + sorted(ROOT.glob("services/*/pyproject.toml"))
    for path in [ROOT / "pyproject.toml", ROOT / "uv.lock", *projects]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def uv_program() -> Path:
    """The pinned uv, installed if it is missing."""
    program = TOOLS / "bin" / "uv"
    stamp = TOOLS / "uv-version"
    if program.exists() and stamp.exists() and stamp.read_text() == UV_VERSION:
        return program
    say(f"Installing uv {UV_VERSION} into {TOOLS.name}")
    if subprocess.call([sys.executable, "-m", "venv", "--clear", str(TOOLS)]) != 0:
        fail(
            f"This Python ({sys.executable}) could not create a virtual environment.",
            "install its venv module (Debian and Ubuntu: apt install python3-venv), or choose another Python: "
            "make PYTHON=/path/to/python3.",
        )
    pip = [str(TOOLS / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    if subprocess.call([*pip, "install", "uv==" + UV_VERSION]) != 0:
        fail(
            "uv could not be installed (see above).",
            "connect to the network and run make again; behind a proxy set HTTPS_PROXY. "
            "Only the first start needs the network.",
        )
    stamp.write_text(UV_VERSION)
    return program


def call(uv: Path, *arguments: str, silent: bool = False) -> int:
    """Run uv on this workspace; returns its exit code."""
    environment = dict(
        os.environ,
        UV_PYTHON_DOWNLOADS="never",
        UV_PROJECT_ENVIRONMENT=str(ENVIRONMENT),
        UV_COMPILE_BYTECODE="1",  # otherwise the first start does it, in all services at once
    )
    environment.pop("VIRTUAL_ENV", None)  # ignore another environment of the caller
    command = [str(uv), *arguments, "--python", sys.executable]
    return subprocess.call(command, cwd=str(ROOT), env=environment, stderr=subprocess.DEVNULL if silent else None)


def is_locked(uv: Path) -> bool:
    """Whether uv.lock satisfies the packages of the workspace; checked without network."""
    return call(uv, "lock", "--check", "--offline", silent=True) == 0


def call_somehow(uv: Path, *arguments: str) -> bool:
    """Run uv; on failure with this machine's certificates (for networks with their own CA), then without network."""
    return any(call(uv, *arguments, *more) == 0 for more in ((), ("--system-certs",), ("--offline",)))


def lock(uv: Path) -> None:
    """Update uv.lock if the packages of the workspace have changed."""
    if not is_locked(uv):
        say("Locking what has changed (uv.lock)")
        if not call_somehow(uv, "lock", "--quiet"):
            fail("The packages could not be locked (see above).", "connect to the network and run make generate again.")


def sync(uv: Path) -> None:
    """Install the locked versions of everything."""
    if shutil.disk_usage(str(ROOT)).free < ROOM:
        fail(
            f"The disk under {ROOT} has less than {ROOM // 1000000} MB left.",
            "free space there; the packages need about 1 GB.",
        )
    say(f"Installing packages into {ENVIRONMENT.name} (pinned in uv.lock)")
    if call_somehow(uv, "sync", "--frozen"):
        return
    if not is_locked(uv):
        fail("A package of this workspace has changed, and uv.lock has not.", "run make generate.")
    fail(
        "The packages could not be installed (see above).",
        "connect to the network and run make again (what was downloaded is kept); behind a proxy set HTTPS_PROXY. "
        "Only the first start needs the network.",
    )


def main() -> None:
    """Bring the environment up to date; with --lock, first uv.lock."""
    if sys.version_info[:2] < OLDEST_PYTHON:
        fail(
            f"This is Python {sys.version.split()[0]} ({sys.executable}); Headrace needs 3.11 or newer.",
            "install a newer Python and pass it, for example: make PYTHON=python3.12.",
        )
    if "--lock" in sys.argv[1:]:
        lock(uv_program())
    state = wanted_state()
    if STAMP.exists() and STAMP.read_text() == state and (ENVIRONMENT / "bin" / "python").exists():
        return
    sync(uv_program())
    STAMP.write_text(state)


if __name__ == "__main__":
    main()
