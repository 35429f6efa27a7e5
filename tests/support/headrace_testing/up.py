"""Running ``headrace up`` as a process of its own, the way a user does, in a folder that goes away afterwards."""

import contextlib
import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from headrace_contracts.property_files import read_properties
from headrace_contracts.registry_access import ANONYMOUS, RegistryAccess
from headrace_models.cloud import CLOUD_PROVIDERS

START_SECONDS = 300.0
STOP_SECONDS = 60.0

_NOT_FOR_TESTS = (*(provider.key_variable for provider in CLOUD_PROVIDERS), "OLLAMA_HOST")


class UpProcess(Protocol):
    """The process of a ``headrace up``, which another process may have started."""

    @property
    def pid(self) -> int:
        """Its process id."""

    def poll(self) -> int | None:
        """None while it runs."""


@dataclass(frozen=True, slots=True)
class RunningStack:
    """A running ``headrace up``; the fields are those of its ``stack.json``."""

    data: Path
    process: UpProcess
    bootstrap_servers: str
    registry_url: str
    database_url: str
    topic_prefix: str
    intake_url: str
    skills_url: str
    costs_url: str
    ops_urls: Mapping[str, str]
    simulator_url: str | None
    simulated: tuple[str, ...]
    api_key_file: Path
    tenant: str
    signing_key_file: Path | None
    kafka_users: Mapping[str, Path]
    registry_users: Mapping[str, Path]

    def kafka_properties(self, user: str) -> dict[str, str]:
        """librdkafka properties of a client that logs in as this user, where the stack is secure."""
        login = {entry.name: entry.value for entry in read_properties(self.kafka_users[user])} if self.secure else {}
        return {"bootstrap.servers": self.bootstrap_servers, **login}

    def registry_access(self, user: str) -> RegistryAccess:
        """How this user logs in to the registry, where the stack is secure."""
        if not self.secure:
            return ANONYMOUS
        return RegistryAccess(username=user, password=self.registry_users[user].read_text().strip())

    @property
    def secure(self) -> bool:
        """Whether everyone has to log in."""
        return bool(self.kafka_users)

    @property
    def api_key(self) -> str:
        """The first API key, an administrator's."""
        return self.api_key_file.read_text().strip()

    @property
    def key_pepper(self) -> str:
        """The secret from which all keys follow, and the codes of records that only services write."""
        return (self.data / "secrets" / "key-pepper").read_text().strip()

    @property
    def simulator_log(self) -> Path:
        """What the simulator was sent, one JSON object per line."""
        return self.data / "simulator" / "requests.jsonl"

    @property
    def pids(self) -> Mapping[str, int]:
        """Process ids of the parts that run now."""
        pids: dict[str, int] = read_stack_file(self.data)["pids"]
        return pids

    def pid(self, part: str) -> int:
        """Process id of a part as it is now (it changes when the part is started again)."""
        return self.pids[part]

    def log(self, part: str) -> str:
        """What a part has logged so far."""
        return (self.data / "logs" / f"{part}.log").read_text(errors="replace")

    def event_loops(self) -> dict[str, set[str]]:
        """The event loops on which each service has been started, as its log tells them."""
        return {name: set(re.findall(r'"event_loop": ?"([^"]+)"', self.log(name))) for name in self.ops_urls}

    @property
    def output(self) -> str:
        """What ``headrace up`` has printed so far."""
        return (self.data.parent / "up.log").read_text(errors="replace")


def read_stack_file(data: Path) -> dict[str, Any]:
    """The content of a data folder's ``stack.json``."""
    content: dict[str, Any] = json.loads((data / "stack.json").read_text())
    return content


def clean_environment(**variables: str) -> dict[str, str]:
    """This process's environment without anything that would make a stack differ from machine to machine."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in _NOT_FOR_TESTS and (not name.startswith("HEADRACE_") or name == "HEADRACE_CACHE")
    }
    return {**kept, **variables}


@contextlib.contextmanager
def open_folder(name: str) -> Iterator[Path]:
    """A folder that every user may enter, so that Postgres can also run in it when the tests run as root."""
    folder = Path(tempfile.mkdtemp(prefix=f"headrace-{name}-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        remove_folder(folder)


def remove_folder(folder: Path) -> None:
    """Remove a folder with data folders in it, with the databases that root's are elsewhere."""
    for link in (*folder.glob("*/postgres"), *folder.glob("*/*/postgres")):
        if link.is_symlink():
            shutil.rmtree(link.resolve(), ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


def launch_up(folder: Path, *options: str, **variables: str) -> subprocess.Popen[bytes]:
    """Start ``headrace up`` with its data in ``folder/data`` and its output in ``folder/up.log``, and do not wait.

    Ctrl-C does not reach it. On Linux it is asked to stop when the thread that has called this ends, however it ends.
    """
    with (folder / "up.log").open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "headrace_devstack", "--data", str(folder / "data"), *options],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=clean_environment(**variables),
            cwd=folder,
            start_new_session=True,
            preexec_fn=_asked_to_stop_with_parent(),
        )


def _asked_to_stop_with_parent() -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # loaded here: the child may do no more than call it

    def in_child() -> None:
        prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG

    return in_child


def stop_up(process: subprocess.Popen[bytes]) -> int:
    """Ask it to stop, wait, and return its exit code; kills it if it takes too long."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


@contextlib.contextmanager
def running_up(folder: Path, *options: str, **variables: str) -> Iterator[RunningStack]:
    """``headrace up`` from healthy to stopped."""
    process = launch_up(folder, *options, **variables)
    try:
        yield wait_until_up(folder, process)
    finally:
        stop_up(process)


def _published_by(pid: int, data: Path) -> bool:
    try:
        return bool(read_stack_file(data)["supervisor_pid"] == pid)
    except FileNotFoundError:
        return False


def wait_until_up(folder: Path, process: UpProcess) -> RunningStack:
    """Wait until all parts are healthy.

    Raises:
        AssertionError: it ended, or took too long; the message has its output.
    """
    data = folder / "data"
    deadline = time.monotonic() + START_SECONDS
    while not _published_by(process.pid, data):
        if (code := process.poll()) is not None or time.monotonic() > deadline:
            state = "is not up in time" if code is None else f"ended with {code}"
            raise AssertionError(f"headrace up {state}:\n{(folder / 'up.log').read_text(errors='replace')}")
        time.sleep(0.1)
    content = read_stack_file(data)
    return RunningStack(
        data=data,
        process=process,
        bootstrap_servers=content["bootstrap_servers"],
        registry_url=content["registry_url"],
        database_url=content["database_url"],
        topic_prefix=content["topic_prefix"],
        intake_url=content["intake_url"],
        skills_url=content["skills_url"],
        costs_url=content["costs_url"],
        ops_urls=content["ops_urls"],
        simulator_url=content["simulator_url"],
        simulated=tuple(content["simulated"]),
        api_key_file=Path(content["api_key_file"]),
        tenant=content["tenant"],
        signing_key_file=Path(content["signing_key_file"]) if content["signing_key_file"] else None,
        kafka_users={user: Path(file) for user, file in content["kafka_users"].items()},
        registry_users={user: Path(file) for user, file in content["registry_users"].items()},
    )
