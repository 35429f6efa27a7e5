"""The platform under test: ``headrace up`` as a process of its own, and second instances of some services."""

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from headrace_devstack.logins import ADMIN
from headrace_devstack.parts.part import NotHealthyYet, Process
from headrace_devstack.parts.probes import http_ok, kafka_serves
from headrace_devstack.providers import choose_providers
from headrace_devstack.services import SERVICES
from headrace_devstack.supervisor import Condition, PartEvent, Supervisor
from headrace_testing.more_instances import another_instance
from headrace_testing.up import RunningStack, launch_up, remove_folder, stop_up, wait_until_up

from headrace_chaos.brokers import NODES, Brokers

DISK_BYTES = 1_200_000_000
DOUBLED = ("router", "local-worker", "cloud-worker")
"""Services that run twice, so that one can be frozen while the other continues."""
_SIMULATOR_SPEED = "20"
_SHORT_SILENCES = {"HEADRACE_FIRST_TOKEN_SECONDS": "4", "HEADRACE_BETWEEN_TOKENS_SECONDS": "2"}
"""Of both workers: a provider that is silent holds a slot for seconds, far below the tasks' deadline."""
_MARKS = {
    "kafka": "kafka.Kafka",
    "registry": "quarkus-run.jar",
    "postgres": "bin/postgres",
    **{f"kafka-{node}": f"/kafka-{node}/server.properties" for node in NODES},
    **{service.name: service.package for service in SERVICES},
}
"""A part of each part's command line that identifies it."""


class SmallDisk:
    """A separate file system for the data, which can be filled up; only if this user may mount."""

    def __init__(self, folder: Path, size: int) -> None:
        self._folder = folder
        self._size = size  # bytes
        self.mounted = False

    def mount(self) -> None:
        """Try to mount it; `mounted` says whether it worked."""
        self._folder.mkdir(exist_ok=True)
        if os.geteuid() == 0 and shutil.which("mount") and sys.platform == "linux":
            options = f"size={self._size},mode=755"
            command = ["mount", "-t", "tmpfs", "-o", options, "headrace-chaos", str(self._folder)]
            self.mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0

    def fill(self) -> None:
        """Leave no free space."""
        status = os.statvfs(self._folder)
        used = (status.f_blocks - status.f_bfree) * status.f_frsize
        for room in (0, *(2**n for n in range(14, 25))):
            # Concurrent writes may need a little more.
            if self._resize(used + room):
                return
        raise OSError(f"{self._folder} cannot be shrunk to its content")

    def free(self) -> None:
        """Make space again."""
        if not self._resize(self._size):
            raise OSError(f"{self._folder} cannot be enlarged again")

    def unmount(self) -> None:
        """Unmount it, even while a file in it is still open."""
        if self.mounted:
            subprocess.run(["umount", "-l", str(self._folder)], capture_output=True, check=False)
            self.mounted = False

    def _resize(self, size: int) -> bool:
        command = ["mount", "-o", f"remount,size={size}", str(self._folder)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


@dataclass(frozen=True, slots=True)
class Platform:
    """The running platform, and its parts' processes."""

    stack: RunningStack
    seconds: Supervisor
    disk: SmallDisk
    brokers: Brokers | None
    """Three of them; None if there is one."""

    def pid(self, part: str) -> int | None:
        """The current process of a part, also while it starts; None between two runs."""
        if part.removesuffix("-2") in DOUBLED and part not in DOUBLED:
            return next((status.pid for status in self.seconds.status() if status.name == part), None)
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.stack.process.pid).children():
                with contextlib.suppress(psutil.Error):
                    if any(_MARKS[part] in word for word in child.cmdline()):
                        return child.pid
        return None

    async def trouble(self) -> str | None:
        """Which part is not healthy, and why; None when all are ready.

        Raises RuntimeError when the platform has ended.
        """
        if (code := self.stack.process.poll()) is not None:
            raise RuntimeError(f"`headrace up` ended with {code}")
        for status in self.seconds.status():
            if status.condition is not Condition.HEALTHY:
                return f"{status.name} is {status.condition.value}"
        if (problem := await self.kafka_trouble()) is not None:
            return problem
        try:
            await http_ok(f"{self.stack.registry_url}/subjects")
            for url in self.stack.ops_urls.values():
                await http_ok(f"{url}/readyz")
        except NotHealthyYet as problem:
            return str(problem)
        return None

    async def kafka_trouble(self) -> str | None:
        """Which broker is not healthy, and why; with three, also whether a replica is missing."""
        admin = self.stack.kafka_properties(ADMIN)
        login = (admin["sasl.username"], admin["sasl.password"]) if self.stack.secure else None
        try:
            for address in self.stack.bootstrap_servers.split(","):
                host, _, port = address.partition(":")
                await kafka_serves(host, int(port), login)
        except NotHealthyYet as problem:
            return str(problem)
        return await self.brokers.trouble() if self.brokers else None


@contextlib.contextmanager
def folder_of_its_own() -> Iterator[Path]:
    """A folder that every user may enter; it is kept if it contains a file named ``keep`` when the block ends."""
    folder = Path(tempfile.mkdtemp(prefix="headrace-chaos-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        if not (folder / "keep").exists():
            remove_folder(folder)


@contextlib.asynccontextmanager
async def running(folder: Path, brokers: int, *, secure: bool = False) -> AsyncIterator[Platform]:
    """The platform, from healthy to stopped; no part of it outlives this process, however that ends.

    With `secure`, everyone logs in.

    If the folder contains a file named ``keep`` when the block ends, the data is kept.
    """
    disk = SmallDisk(folder / "disk", DISK_BYTES * brokers)
    disk.mount()
    if disk.mounted:
        # The database of a stack that root starts is elsewhere, but is to be on the small disk too.
        for name in ("data", "postgres"):
            (folder / "disk" / name).mkdir()
        (folder / "disk" / "data" / "postgres").symlink_to(folder / "disk" / "postgres")
        (folder / "data").symlink_to(folder / "disk" / "data")
    process = launch_up(
        folder, "--simulate", "--simulator-speed", _SIMULATOR_SPEED, "--port-base", "0", "--brokers", str(brokers),
        *(["--secure"] if secure else []), **_SHORT_SILENCES,
    )  # fmt: skip
    try:
        stack = await asyncio.to_thread(wait_until_up, folder, process)
        second = Supervisor(_second_instances(folder, stack), _noting(folder / "second.log"))
        try:
            await second.start()
            watching = asyncio.create_task(second.watch())
            try:
                several = Brokers(stack.kafka_properties(ADMIN), stack.data) if brokers > 1 else None
                yield Platform(stack, second, disk, several)
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
        finally:
            await second.stop()
    except Exception as error:
        (folder / "keep").touch()
        error.add_note(f"data and logs of the run are kept in {folder}")
        raise
    finally:
        try:
            await asyncio.to_thread(stop_up, process)
        finally:
            if disk.mounted and (folder / "keep").exists():
                await asyncio.to_thread(_copy, folder / "disk", folder / "data-kept")
            disk.unmount()


def _copy(source: Path, target: Path) -> None:
    # Kafka's indexes are preallocated and mostly empty.
    subprocess.run(["cp", "-a", "--sparse=always", str(source), str(target)], capture_output=True, check=False)


def _second_instances(folder: Path, stack: RunningStack) -> Sequence[Process]:
    assert stack.simulator_url is not None
    providers = choose_providers({}, ollama=None, simulator=stack.simulator_url, simulate_all=True)
    own: Mapping[str, Mapping[str, str]] = {"local-worker": providers.local, "cloud-worker": providers.cloud}
    return [another_instance(folder, stack, name, 2, {**_SHORT_SILENCES, **own.get(name, {})}) for name in DOUBLED]


def _noting(log: Path) -> Callable[[PartEvent], None]:
    def note(event: PartEvent) -> None:
        if event.condition is not Condition.HEALTHY or event.seconds:
            with log.open("a") as file:
                file.write(f"{event.part} {event.condition.value} {event.seconds:.1f} {event.detail}\n")

    return note
